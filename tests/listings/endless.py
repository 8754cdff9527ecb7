"""Parquet files that declare far more than they hold."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 1_000_000
TAIL_BYTES = len(b"PAR1") + 4


def billion_rows() -> bytes:
    """10^9 rows of the number 7, column ``x``: a thousand row groups that are the same bytes.

    Unlike a forged count this is a file that every reader reads to its end.
    """
    indices = pa.repeat(pa.scalar(0, pa.int32()), GROUP_ROWS)
    table = pa.table({"x": pa.DictionaryArray.from_arrays(indices, pa.array([7], pa.int64()))})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    data = sink.getvalue()
    footer, again = (pq.read_metadata(io.BytesIO(data)) for _ in range(2))
    for _ in range(999):
        footer.append_row_groups(again)
    assert footer.num_rows == 1_000_000_000
    written = io.BytesIO()
    footer.write_metadata_file(written)
    size = int.from_bytes(data[-TAIL_BYTES:-4], "little")
    return data[: -TAIL_BYTES - size] + written.getvalue().removeprefix(b"PAR1")
