"""The top talkers of a flow history by DuckDB on its files, and by SQLite on the same rows: flows_beside.py STATE-DIR"""

import json
import os
import sqlite3
import sys
import time

import duckdb

files = f"{sys.argv[1]}/flows/**/*.parquet"


def best(work):
    work()
    took = []
    for _ in range(7):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took) * 1e3


duck = duckdb.connect()
duck.execute("set threads = 2")
QUESTION = "select source, sum(forward_bytes + reverse_bytes) bytes from {} {} group by source order by bytes desc limit 10"
by_duckdb = QUESTION.format(f"read_parquet('{files}')", "where destination_port > 0")
duckdb_ms = best(lambda: duck.execute(by_duckdb).fetchall())
top = duck.execute(by_duckdb).fetchall()

# In a file, as the history is; what is asked about and a little more, for a row to be no smaller than it must.
path = f"{sys.argv[1]}/beside.sqlite"
lite = sqlite3.connect(path)
lite.execute("pragma journal_mode = off")
lite.execute("pragma synchronous = off")
lite.execute(
    """create table flows (start, "end", source, destination, destination_port, class, forward_bytes, reverse_bytes)"""
)
rows = duck.execute(
    f"""select epoch_ms(start), epoch_ms("end"), source, destination, destination_port, class, forward_bytes, reverse_bytes
    from read_parquet('{files}')"""
)
while chunk := rows.fetchmany(100_000):
    lite.executemany("insert into flows values (?, ?, ?, ?, ?, ?, ?, ?)", chunk)
lite.commit()
by_sqlite = QUESTION.format("flows", "where destination_port > 0")
begin = time.perf_counter()
lite_top = lite.execute(by_sqlite).fetchall()
sqlite_ms = (time.perf_counter() - begin) * 1e3
os.unlink(path)

assert [tuple(row) for row in top] == [tuple(row) for row in lite_top], (top, lite_top)
print(json.dumps({"duckdb_ms": duckdb_ms, "sqlite_ms": sqlite_ms, "top": [top[0][0], int(top[0][1])]}))
