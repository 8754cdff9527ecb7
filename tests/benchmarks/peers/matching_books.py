"""Other order books behind one face, each run in its own interpreter by ``matching_peer.py``.

A class per distribution: ``submit`` (verb 0 limit, 1 IOC, 2 market), ``cancel``, ``amend``; all
numbers are integers as the flow has them. What a book cannot do is expressed the nearest way and
said in ``NOTE``. Each keeps the trades its book reports, as ours does.
"""

# mypy: ignore-errors

LIMIT, IOC, MARKET = 0, 1, 2


class Peer:
    """Books by instrument; ``trades`` counts (trades, lots), None when the book reports none."""

    NOTE = ""

    def __init__(self, instruments):
        self.books = [self.make() for _ in range(instruments)]
        self.ids = {}
        self.count = self.volume = 0

    def amend(self, instrument, ref, side, price, lots):
        if self.cancel(instrument, ref):
            self.submit(LIMIT, instrument, ref, side, price, lots)

    def traded(self):
        return self.count, self.volume

    def close(self):
        """End what the book has started."""


class LimitOrderBook(Peer):
    NOTE = "IOC: limit, then cancel; amend: cancel, then limit; reports no trades"

    def make(self):
        from limit_order_book import LimitOrderBook as Native

        return Native()

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        if verb == MARKET:
            (book.market_sell if side else book.market_buy)(ref, lots)
            return
        (book.limit_sell if side else book.limit_buy)(ref, lots, price)
        if verb == IOC and book.has(ref):
            book.cancel(ref)

    def cancel(self, instrument, ref):
        book = self.books[instrument]
        if book.has(ref):
            book.cancel(ref)
            return True
        return False

    def traded(self):
        return None


class Litebook(Peer):
    NOTE = "IOC and market: limit, then cancel; amend: cancel, then limit"

    def __init__(self, instruments):
        import litebook

        self.sides = (litebook.OrderType.Buy, litebook.OrderType.Sell)
        self.native = litebook.OrderBook
        super().__init__(instruments)

    def make(self):
        return self.native(tick_size=1.0)

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        order = book.create_order(self.sides[side], price, lots)
        fills = book.add(order)
        for fill in fills:
            self.count += 1
            self.volume += fill.quantity
        if verb == LIMIT:
            self.ids[ref] = order.id
        else:
            book.cancel(order.id)

    def cancel(self, instrument, ref):
        # It says True for a filled order, too.
        book, order = self.books[instrument], self.ids[ref]
        return book.get_order(order) is not None and book.cancel(order)


class Liquibook(Peer):
    NOTE = "amend: replace, lots as a difference"

    def __init__(self, instruments):
        import liquibook

        peer = self

        class Listener(liquibook.OrderListener):
            def on_fill(self, maker, taker, lots, cost):
                maker.fill(lots, cost, 0)
                taker.fill(lots, cost, 0)
                peer.count += 1
                peer.volume += lots

            def on_replace(self, order, difference, price):
                order.replace(difference, price)

            def on_cancel(self, order):
                order.cancel()

            def ignore(self, *arguments):
                pass

            on_accept = on_reject = on_cancel_reject = ignore
            on_replace_reject = on_trigger_stop = ignore

        self.native = liquibook
        self.listener = Listener()
        super().__init__(instruments)

    def make(self):
        book = self.native.DepthOrderBook()
        book.set_order_listener(self.listener)
        return book

    def submit(self, verb, instrument, ref, side, price, lots):
        native = self.native
        conditions = 0 if verb == LIMIT else native.oc_immediate_or_cancel
        limit = 0 if verb == MARKET else price
        order = native.SimpleOrder(not side, limit, lots, 0, conditions)
        self.books[instrument].add(order, conditions)
        if verb == LIMIT:
            self.ids[ref] = order

    def cancel(self, instrument, ref):
        self.books[instrument].cancel(self.ids[ref])

    def amend(self, instrument, ref, side, price, lots):
        order = self.ids[ref]
        left = order.open_qty()
        if left:
            self.books[instrument].replace(order, lots - left, price)


class OrderlyChaos(Peer):
    NOTE = "IOC: limit, then cancel; amend: cancel, then limit"

    def make(self):
        from orderly_chaos import LimitOrderBook as Native

        return Native(on_trade=self.note)

    def note(self, trade):
        self.count += 1
        self.volume += trade.quantity

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        if verb == MARKET:
            (book.market_sell if side else book.market_buy)(ref, lots)
            return
        filled = (book.limit_sell if side else book.limit_buy)(ref, lots, price)
        if verb == IOC and filled < lots:
            book.cancel(ref)

    def cancel(self, instrument, ref):
        book = self.books[instrument]
        if book.has(ref):
            book.cancel(ref)
            return True
        return False


class Akhil4n(Peer):
    NOTE = "IOC: limit, then cancel; amend: cancel, then limit"

    def __init__(self, instruments):
        import orderbook

        self.native = orderbook
        self.sides = (orderbook.OrderSide.BID, orderbook.OrderSide.ASK)
        super().__init__(instruments)

    def make(self):
        return self.native.OrderBook()

    def limit(self, side, price, lots):
        return self.native.Order(self.sides[side], price, lots)

    def market(self, side, lots):
        return self.native.MarketOrder(self.sides[side], lots)

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        if verb == MARKET:
            book.add_market_order(self.market(side, lots))
            return
        order = self.limit(side, price, lots)
        book.add_limit_order(order)
        if verb == LIMIT:
            self.ids[ref] = order.order_id
        elif order.remaining_quantity:
            book.cancel_order(order.order_id)

    def cancel(self, instrument, ref):
        return self.books[instrument].cancel_order(self.ids[ref])

    def traded(self):
        logs = [book.trade_log for book in self.books]
        return sum(map(len, logs)), sum(item.quantity_filled for log in logs for item in log)


class CythonOrderbook(Akhil4n):
    def __init__(self, instruments):
        import cython_orderbook

        self.native = cython_orderbook
        self.sides = (cython_orderbook.OrderSide.BID, cython_orderbook.OrderSide.ASK)
        Peer.__init__(self, instruments)

    def limit(self, side, price, lots):
        return self.native.Order(self.sides[side], lots, price)

    def market(self, side, lots):
        return self.native.Order(self.sides[side], lots)


class LightMatchingEngine(Peer):
    NOTE = "IOC: limit, then cancel; amend: cancel, then limit; a late cancel is an AssertionError"

    def make(self):
        return None

    def __init__(self, instruments):
        from lightmatchingengine.lightmatchingengine import LightMatchingEngine as Native

        super().__init__(instruments)
        self.engine = Native()

    def submit(self, verb, instrument, ref, side, price, lots):
        order, trades = self.engine.add_order(instrument, price, lots, side + 1)
        for trade in trades:
            # The taker's side of a trade is reported as one more trade per price.
            if trade.order_id != order.order_id:
                self.count += 1
                self.volume += trade.trade_qty
        if verb == LIMIT:
            self.ids[ref] = order.order_id
        elif order.leaves_qty:
            self.engine.cancel_order(order.order_id, instrument)

    def cancel(self, instrument, ref):
        try:
            return self.engine.cancel_order(self.ids[ref], instrument)
        except AssertionError:
            return None


class PyOrderBook(Peer):
    NOTE = "IOC and market: limit, then cancel; amend: cancel, then limit"

    def make(self):
        return None

    def __init__(self, instruments):
        import pyorderbook

        super().__init__(instruments)
        self.makers = (pyorderbook.bid, pyorderbook.ask)
        self.book = pyorderbook.Book()
        self.symbols = [str(number) for number in range(instruments)]

    def submit(self, verb, instrument, ref, side, price, lots):
        order = self.makers[side](self.symbols[instrument], price, lots)
        for trade in self.book.match(order).trades:
            self.count += 1
            self.volume += trade.fill_quantity
        if verb == LIMIT:
            self.ids[ref] = order
        elif order.quantity:
            self.book.cancel(order)

    def cancel(self, instrument, ref):
        order = self.ids[ref]
        if order.id in self.book.order_map:
            self.book.cancel(order)
            return True
        return False


class Obook(Peer):
    NOTE = "amend: replace; events are drained after each operation"

    def make(self):
        import obook

        self.native = obook
        return obook.Book(max_orders=200_000)

    def submit(self, verb, instrument, ref, side, price, lots):
        native, book = self.native, self.books[instrument]
        kind = native.MARKET if verb == MARKET else native.LIMIT
        tif = native.GTC if verb == LIMIT else native.IOC
        result = book.submit(1 + side, side, price, lots, kind, tif)
        self.ids[ref] = result.order_id
        self.drain(book)

    def drain(self, book):
        for event in book.events():
            if event.kind == 3:
                self.count += 1
                self.volume += event.qty

    def cancel(self, instrument, ref):
        book = self.books[instrument]
        # The party is the side here: one buys, one sells.
        book.cancel(self.ids[ref], 1)
        book.cancel(self.ids[ref], 2)
        self.drain(book)

    def amend(self, instrument, ref, side, price, lots):
        book = self.books[instrument]
        result = book.replace(self.ids[ref], 1 + side, side, price, lots)
        if result.order_id:
            self.ids[ref] = result.order_id
        self.drain(book)


class Manticore(Peer):
    NOTE = "all native"
    SIDES = ("buy", "sell")

    def make(self):
        from manticore_orderbook.core.orderbook import OrderBook

        return OrderBook("X", max_trade_history=1_000_000, enable_logging=False)

    def submit(self, verb, instrument, ref, side, price, lots):
        tif, kind = (None, None) if verb == LIMIT else ("IOC", None)
        if verb == MARKET:
            tif, kind, price = None, "market", None
        self.books[instrument].add_order(
            self.SIDES[side], price, lots, str(ref), tif, order_type=kind
        )

    def cancel(self, instrument, ref):
        return self.books[instrument].cancel_order(str(ref))

    def amend(self, instrument, ref, side, price, lots):
        self.books[instrument].modify_order(str(ref), price, lots)

    def traded(self):
        logs = [book.get_trade_history(1_000_000) for book in self.books]
        return sum(map(len, logs)), sum(item["quantity"] for log in logs for item in log)


class Fastlob(Peer):
    NOTE = "IOC, market: limit, then cancel; amend: cancel, then limit; reports no trades"

    def make(self):
        import logging

        import fastlob

        logging.disable(logging.CRITICAL)
        self.native = fastlob
        self.sides = (fastlob.OrderSide.BID, fastlob.OrderSide.ASK)
        book = fastlob.Orderbook("X")
        book.start()
        return book

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        result = book(self.native.OrderParams(self.sides[side], price, lots))
        if verb == LIMIT:
            self.ids[ref] = result.orderid()
        else:
            self.ids[ref] = result.orderid()
            self.cancel(instrument, ref)

    def cancel(self, instrument, ref):
        try:
            return self.books[instrument].cancel(self.ids[ref]).success()
        except KeyError:
            return False

    def traded(self):
        return None

    def close(self):
        for book in self.books:
            book.stop()


class OrderMatching(Peer):
    NOTE = "IOC: limit, then cancel; amend: cancel, then limit"

    def make(self):
        from order_matching.matching_engine import MatchingEngine

        return MatchingEngine(seed=1)

    def __init__(self, instruments):
        from datetime import datetime, timedelta

        from loguru import logger
        from order_matching.enums import Side
        from order_matching.order import LimitOrder, MarketOrder
        from order_matching.orders import Orders

        logger.remove()
        self.limit, self.market, self.orders = LimitOrder, MarketOrder, Orders
        self.sides = (Side.BUY, Side.SELL)
        self.now, self.tick = datetime(2026, 1, 1), timedelta(microseconds=1)  # noqa: DTZ001
        self.fresh = 0
        super().__init__(instruments)

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        self.now += self.tick
        self.fresh += 1
        words = {
            "side": self.sides[side],
            "size": lots,
            "timestamp": self.now,
            "order_id": str(self.fresh),
            "trader_id": str(side),
        }
        order = self.market(**words) if verb == MARKET else self.limit(price=price, **words)
        book.place(orders=self.orders([order]))
        for trade in book.match(timestamp=self.now).trades:
            self.count += 1
            self.volume += trade.size
        self.ids[ref] = order.order_id
        if verb != LIMIT:
            self.cancel(instrument, ref)

    def cancel(self, instrument, ref):
        try:
            self.books[instrument].cancel_order(self.ids[ref])
        except ValueError:
            return False
        return True


class Nanobook(Peer):
    NOTE = "all native"
    SIDES = ("buy", "sell")

    def make(self):
        import nanobook

        return nanobook.Exchange()

    def submit(self, verb, instrument, ref, side, price, lots):
        book = self.books[instrument]
        if verb == MARKET:
            result = book.submit_market(self.SIDES[side], lots)
        else:
            tif = "gtc" if verb == LIMIT else "ioc"
            result = book.submit_limit(self.SIDES[side], price, lots, tif)
        for trade in result.trades:
            self.count += 1
            self.volume += trade.quantity
        self.ids[ref] = result.order_id

    def cancel(self, instrument, ref):
        return self.books[instrument].cancel(self.ids[ref]).success

    def amend(self, instrument, ref, side, price, lots):
        result = self.books[instrument].modify(self.ids[ref], price, lots)
        if result.success:
            self.ids[ref] = result.new_order_id
            for trade in result.trades:
                self.count += 1
                self.volume += trade.quantity


PEERS = {
    "limit-order-book": LimitOrderBook,
    "litebook": Litebook,
    "liquibook": Liquibook,
    "orderly-chaos": OrderlyChaos,
    "akhil4n-orderbook": Akhil4n,
    "cython-orderbook": CythonOrderbook,
    "lightmatchingengine": LightMatchingEngine,
    "pyorderbook": PyOrderBook,
    "obook": Obook,
    "manticore-orderbook": Manticore,
    "fastlob": Fastlob,
    "order-matching": OrderMatching,
    "nanobook": Nanobook,
}
