# Reads the flow history's files in an object store with pyarrow: prints each object, and by tenant its rows, packets and bytes.
import sys

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs

endpoint, account, root = sys.argv[1:]
store = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", access_key=account, secret_key=account, region="us-east-1")
files = [info.path for info in store.get_file_info(fs.FileSelector(root, recursive=True)) if info.type == fs.FileType.File]
print(*sorted(files), sep="\n")
table = ds.dataset(sorted(files), filesystem=store, format="parquet", partitioning="hive", partition_base_dir=root).to_table()
for tenant in sorted(set(table["tenant"].to_pylist())):
    rows = table.filter(pc.equal(table["tenant"], tenant))
    sums = [sum(pc.sum(rows[f"{way}_{what}"]).as_py() for way in ("forward", "reverse")) for what in ("packets", "bytes")]
    print(tenant, rows.num_rows, *sums)
