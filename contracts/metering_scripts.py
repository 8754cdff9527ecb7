"""The meter's Lua scripts. Each is atomic in Valkey and safe to send twice.

Keys of one grant (one hash tag, so that they share a cluster slot):

    q  hash  avail, lease, units, st (active|check), b (block counter), fresh, rest, gen,
             rv (how many ids x has: a cache that evicts may lose x alone),
             sub (until when a sub-lease may serve without asking, ms)
    h  hash  Delivery-Id → ``r|units|lease|deadline_ms|owner|facts`` while running,
                           ``d|units|lease|settled_ms|facts`` from settling until durable
             ~block id   → ``r|units|lease|deadline_ms|owner:number|``, a sub-lease
    p  text  nonce of the present emptiness; a lease can only be activated into it
    x  set   ids of revoked tokens

The facts of a running delivery are those to bill should nobody settle it: empty on the buyer-safe
side, where its units then return.

Nothing here is the truth: every key may vanish at any moment. A missing ``q`` means "ask
Postgres"; ``fresh`` bounds how long a cut-off cache can go on without asking.
"""

import hashlib
from dataclasses import dataclass, field
from uuid import UUID

PENDING_TTL_MS = 60_000
HELD_MAX = 1_000
# A grant with fewer blocks left than this is metered exactly: none may starve the others.
SUB_LEASE_PARTS = 16


@dataclass(frozen=True, slots=True)
class Script:
    """Lua source and its SHA-1, by which EVALSHA calls it."""

    name: str
    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # Valkey's own name for a script, not a protection of anything.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


def keys_of(grant_id: UUID) -> tuple[str, str, str, str]:
    """The four keys of a grant, in script order q, h, p, x."""
    tag = f"meter:{{{grant_id.hex}}}"
    return f"{tag}:q", f"{tag}:h", f"{tag}:p", f"{tag}:x"


_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function num(x) return string.format('%.0f', tonumber(x) or 0) end
local function held(text)
  local s, n, lease, at, rest = string.match(text, '^(%a)|(%d+)|([^|]*)|(%d+)|(.*)$')
  return s, tonumber(n), lease, tonumber(at), rest
end
local function torn(rv) return rv ~= '0' and redis.call('SCARD', KEYS[4]) ~= tonumber(rv) end
local function owned(rest) return string.match(rest, '^([^|]*)|?(.*)$') end
local function overdue(id, n, lease, rest)
  local owner, facts = owned(rest)
  if facts == '' then
    redis.call('HDEL', KEYS[2], id)
    return n, nil
  end
  redis.call('HSET', KEYS[2], id, 'd|' .. num(n) .. '|' .. lease .. '|' .. num(now) .. '|' .. facts)
  return 0, facts
end
"""

# ARGV: token id. Answers PASS avail rest | EMPTY | CHECK b lease | TOKEN
ADMIT = Script(
    "admit",
    _NOW
    + """
local q = redis.call('HMGET', KEYS[1], 'avail', 'lease', 'st', 'b', 'fresh', 'rest', 'rv')
if not q[1] then return {'EMPTY'} end
if q[3] ~= 'active' or now > tonumber(q[5]) or torn(q[7]) then return {'CHECK', q[4], q[2]} end
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 1 then return {'TOKEN'} end
return {'PASS', q[1], q[6]}
""",
)

# ARGV: delivery id, units, owner, token id, hold ms, fresh nonce, facts to bill if never settled.
# Answers OK lease avail rest | LEASE lease units avail nonce | CHECK b lease | TOKEN | BUSY
#         | DONE facts
RESERVE = Script(
    "reserve",
    _NOW
    + f"""
local q = redis.call('HMGET', KEYS[1], 'avail', 'lease', 'units', 'st', 'b', 'fresh', 'rest',
  'rv')
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then
  local s, n, lease, at, rest = held(before)
  if s == 'd' then return {{'DONE', rest}} end
  if owned(rest) == ARGV[3] then return {{'OK', lease, q[1] or '0', q[7] or '0'}} end
  if now <= at then return {{'BUSY'}} end
  local freed, facts = overdue(ARGV[1], n, lease, rest)
  if facts then return {{'DONE', facts}} end
  if q[1] and q[2] == lease then q[1] = num(redis.call('HINCRBY', KEYS[1], 'avail', num(freed))) end
end
if not q[1] then
  redis.call('SET', KEYS[3], ARGV[6], 'NX', 'PX', {PENDING_TTL_MS})
  return {{'LEASE', '', '0', '0', redis.call('GET', KEYS[3])}}
end
if q[4] ~= 'active' or now > tonumber(q[6]) or torn(q[8]) then return {{'CHECK', q[5], q[2]}} end
if redis.call('SISMEMBER', KEYS[4], ARGV[4]) == 1 then return {{'TOKEN'}} end
local n, avail = tonumber(ARGV[2]), tonumber(q[1])
if avail < n and redis.call('HLEN', KEYS[2]) <= {HELD_MAX} then
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local s, units, lease, at, rest = held(all[i + 1])
    if s == 'r' and now > at then
      local freed = overdue(all[i], units, lease, rest)
      if lease == q[2] then avail = avail + freed end
    end
  end
  redis.call('HSET', KEYS[1], 'avail', num(avail))
end
if avail < n then return {{'LEASE', q[2], q[3], num(avail), ''}} end
redis.call('HSET', KEYS[1], 'avail', num(avail - n))
redis.call('HSET', KEYS[2], ARGV[1],
  'r|' .. ARGV[2] .. '|' .. q[2] .. '|' .. num(now + tonumber(ARGV[5])) .. '|' .. ARGV[3]
  .. '|' .. ARGV[7])
return {{'OK', q[2], num(avail - n), q[7]}}
""",
)

# ARGV: delivery id, units used, owner, facts ('' releases). Answers OK avail rest | DONE | LATE
SETTLE = Script(
    "settle",
    _NOW
    + """
local before = redis.call('HGET', KEYS[2], ARGV[1])
if not before then return {'LATE'} end
local s, n, lease, at, rest = held(before)
if s == 'd' then return {'DONE'} end
if owned(rest) ~= ARGV[3] then return {'LATE'} end
local m = tonumber(ARGV[2])
if m > n then return redis.error_reply('settled more than reserved') end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1],
    'd|' .. ARGV[2] .. '|' .. lease .. '|' .. num(now) .. '|' .. ARGV[4])
end
local q = redis.call('HMGET', KEYS[1], 'lease', 'avail', 'rest')
if q[1] ~= lease then return {'OK', '0', '0'} end
local avail = redis.call('HINCRBY', KEYS[1], 'avail', num(n - m))
return {'OK', num(avail), q[3]}
""",
)

# ARGV: lease, units, nonce, gen, fresh ms, rest, revoked token ids... Answers OK | STALE
ACTIVATE = Script(
    "activate",
    _NOW
    + """
local q = redis.call('HMGET', KEYS[1], 'lease', 'units')
if q[1] == ARGV[1] then
  local more = tonumber(ARGV[2]) - tonumber(q[2])
  if more > 0 then
    redis.call('HINCRBY', KEYS[1], 'avail', num(more))
    redis.call('HSET', KEYS[1], 'units', ARGV[2], 'rest', ARGV[6])
  end
  return {'OK'}
end
if q[1] or redis.call('GET', KEYS[3]) ~= ARGV[3] then return {'STALE'} end
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('HSET', KEYS[1], 'avail', ARGV[2], 'lease', ARGV[1], 'units', ARGV[2], 'st', 'active',
  'b', '0', 'fresh', num(now + tonumber(ARGV[5])), 'rest', ARGV[6], 'gen', ARGV[4],
  'rv', num(#ARGV - 6))
for i = 7, #ARGV do redis.call('SADD', KEYS[4], ARGV[i]) end
return {'OK'}
""",
)

# ARGV: b, lease, gen, fresh ms, rest, revoked token ids... Answers OK | STALE
REFRESH = Script(
    "refresh",
    _NOW
    + """
local q = redis.call('HMGET', KEYS[1], 'b', 'lease', 'gen')
if q[1] ~= ARGV[1] or q[2] ~= ARGV[2] or tonumber(q[3]) > tonumber(ARGV[3]) then
  return {'STALE'}
end
redis.call('HSET', KEYS[1], 'st', 'active', 'gen', ARGV[3],
  'fresh', num(now + tonumber(ARGV[4])), 'rest', ARGV[5], 'rv', num(#ARGV - 5))
redis.call('DEL', KEYS[4])
for i = 6, #ARGV do redis.call('SADD', KEYS[4], ARGV[i]) end
return {'OK'}
""",
)

# From here on every reader asks Postgres, where the change about to commit holds the row lock.
# Answers OK and the milliseconds that sub-leases may still serve without asking.
BLOCK = Script(
    "block",
    _NOW
    + """
local sub = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'st', 'check')
  redis.call('HINCRBY', KEYS[1], 'b', 1)
  sub = (tonumber(redis.call('HGET', KEYS[1], 'sub')) or 0) - now
end
redis.call('DEL', KEYS[3])
return {'OK', num(math.max(0, sub))}
""",
)

# ARGV: block id, owner, number of this call, units that became durable, size wanted, grow (1|0),
# token id, hold ms, valid ms. With 0 the block shrinks to the size. The same number is counted
# once. Answers GONE, or a word, units held, lease, b and the grant's units outside (-1: no bound):
# OK (may serve for valid ms) | CHECK | TOKEN | FEW | OTHER (its lease is no longer the cache's).
SYNC = Script(
    "sync",
    _NOW
    + f"""
local q = redis.call('HMGET', KEYS[1], 'avail', 'lease', 'st', 'fresh', 'rest', 'rv', 'b')
local avail, outside = tonumber(q[1] or '0'), tonumber(q[5] or '0')
local before = redis.call('HGET', KEYS[2], ARGV[1])
local n, lease, again = 0, q[2], false
if before then
  local s, units, of, at, rest = held(before)
  local owner, number = string.match(owned(rest), '^(%x+):(%d+)$')
  if owner ~= ARGV[2] then return {{'GONE'}} end
  n, lease, again = units, of, number == ARGV[3]
elseif ARGV[3] ~= '1' or not q[2] then
  return {{'GONE'}}
end
local size, grow, mine = tonumber(ARGV[5]), ARGV[6] == '1', q[2] and lease == q[2]
local word = 'OK'
if not mine then word = 'OTHER'
elseif q[3] ~= 'active' or now > tonumber(q[4]) or torn(q[6]) then word = 'CHECK'
elseif redis.call('SISMEMBER', KEYS[4], ARGV[7]) == 1 then word = 'TOKEN'
elseif outside >= 0 and avail + outside + n < {SUB_LEASE_PARTS} * size then word = 'FEW'
end
if not again then
  n = math.max(0, n - tonumber(ARGV[4]))
  local more = 0
  if not grow then more = math.min(0, size - n)
  elseif word == 'OK' then more = math.max(0, math.min(size - n, avail)) end
  n = n + more
  if mine and more ~= 0 then
    avail = redis.call('HINCRBY', KEYS[1], 'avail', num(-more))
  end
end
if n == 0 and not grow then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], 'r|' .. num(n) .. '|' .. lease .. '|'
    .. num(now + tonumber(ARGV[8])) .. '|' .. ARGV[2] .. ':' .. ARGV[3] .. '|')
end
if word == 'OK' and grow then
  redis.call('HSET', KEYS[1], 'sub', num(now + tonumber(ARGV[9])))
end
return {{word, num(n), lease, q[7] or '0', num(outside < 0 and -1 or avail + outside)}}
""",
)

# ARGV: lease. Forget a lease that Postgres no longer calls active; running holds stay. Answers
# IDLE when the lease was here all its life and nothing of the grant is under way, else BUSY.
FORGET = Script(
    "forget",
    """
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return {'BUSY'} end
redis.call('DEL', KEYS[1], KEYS[4])
if redis.call('EXISTS', KEYS[2]) == 1 then return {'BUSY'} end
return {'IDLE'}
""",
)

# ARGV: age ms. Ends overdue reservations, answers the facts that wait for Postgres since longer
# than the age, for their process may be gone: lease, facts, lease, facts…
SWEEP = Script(
    "sweep",
    _NOW
    + f"""
local found = {{}}
local lease = redis.call('HGET', KEYS[1], 'lease')
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local s, n, of, at, rest = held(all[i + 1])
  if s == 'r' and now > at then
    local freed, facts = overdue(all[i], n, of, rest)
    if of == lease then redis.call('HINCRBY', KEYS[1], 'avail', num(freed)) end
    if facts then s, at, rest = 'd', 0, facts end
  end
  if s == 'd' and now - at >= tonumber(ARGV[1]) and #found < 2 * {HELD_MAX} then
    found[#found + 1] = of
    found[#found + 1] = rest
  end
end
return found
""",
)

# ARGV: delivery ids that are durable now.
ACK = Script(
    "ack",
    """
for i = 1, #ARGV do
  local text = redis.call('HGET', KEYS[2], ARGV[i])
  if text and string.sub(text, 1, 2) == 'd|' then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
return {'OK'}
""",
)

ALL = (ADMIT, RESERVE, SETTLE, ACTIVATE, REFRESH, BLOCK, SYNC, FORGET, SWEEP, ACK)
