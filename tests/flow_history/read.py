"""Sums up a flow history as DuckDB and pyarrow read it: read.py STATE-DIR"""

import sys

import duckdb
import pyarrow.compute as pc
import pyarrow.dataset as ds

state = sys.argv[1]
rows = f"{state}/flows"
by_class = f"{state}/flow-rollups/step=5m/by=class"

SUMS = """
    select tenant, cast(date as varchar), {count}, sum(forward_bytes + reverse_bytes)::bigint,
        (sum(forward_packets) filter (class = 'voice'))::bigint, {named}
    from read_parquet('{path}/**/*.parquet', hive_partitioning = true) group by all order by tenant"""


def by_duckdb(path, count, named):
    for row in duckdb.sql(SUMS.format(path=path, count=count, named=named)).fetchall():
        print(*row)


def by_pyarrow(path, count, named):
    table = ds.dataset(path, format="parquet", partitioning="hive").to_table()
    for tenant in sorted(pc.unique(table["tenant"]).to_pylist()):
        of = table.filter(pc.equal(table["tenant"], tenant))
        voice = of.filter(pc.equal(pc.cast(of["class"], "string"), "voice"))
        size = pc.sum(of["forward_bytes"]).as_py() + pc.sum(of["reverse_bytes"]).as_py()
        date = of["date"][0].as_py()
        print(tenant, date, count(of), size, pc.sum(voice["forward_packets"]).as_py(), named(of))


print("duckdb rows")
by_duckdb(rows, "count(*)", "count(name)")
print("duckdb roll-up")
by_duckdb(by_class, "sum(flows)::bigint", "0")
print("pyarrow rows")
by_pyarrow(rows, len, lambda of: pc.count(of["name"]).as_py())
print("pyarrow roll-up")
by_pyarrow(by_class, lambda of: pc.sum(of["flows"]).as_py(), lambda of: 0)
