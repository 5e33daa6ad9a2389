//! A Parquet file: how it is written, and read whole. What it is named, see [`super::files`].

use super::row::Names;
use super::schema::{Column, FLOWS, Rollup};
use super::table::{Shape, Table};
use crate::store::whole;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::fs::File;
use std::io;
use std::path::Path;

/// What may be skipped when it is known not to be wanted, and read by two at once.
const ROW_GROUP: usize = 262_144;
/// More texts than that are not worth a dictionary.
const DICTIONARY_BYTES: usize = 8 << 20;

/// Writes a sorted table, all or nothing, and has it last. How many bytes that took.
///
/// # Errors
/// The disk's.
pub(super) fn write(path: &Path, table: &Table, names: &Names) -> io::Result<u64> {
    let shape = table.shape();
    let batch = table.to_arrow(names).map_err(io::Error::other)?;
    let file = whole::create(path, |file| {
        let mut writer = ArrowWriter::try_new(file, shape.schema(), Some(properties(shape))).map_err(told)?;
        writer.write(&batch).map_err(told)?;
        writer.close().map_err(told)?;
        Ok(())
    })?;
    Ok(file.metadata()?.len())
}

/// Adds what is in a file to a table of the same shape.
///
/// # Errors
/// It cannot be read, or is no such file.
pub(super) fn read(path: &Path, shape: Shape, table: &mut Table, names: &mut Names) -> io::Result<()> {
    let file = File::open(path)?;
    let options = ArrowReaderOptions::new().with_schema(shape.schema());
    let metadata = ArrowReaderMetadata::load(&file, options).map_err(told)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    for batch in builder.with_batch_size(ROW_GROUP).build().map_err(told)? {
        table.add(&batch.map_err(io::Error::other)?, names);
    }
    Ok(())
}

/// What the disk said, where it was the disk.
fn told(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

fn properties(shape: Shape) -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    let schema = shape.schema();
    let at = |name: &str| ColumnPath::from(name);
    let sorted_by = [shape.sorted_by(), Column::End].map(|column| SortingColumn {
        column_idx: schema.index_of(column.name()).map_or(0, |place| place as i32),
        descending: false,
        nulls_first: false,
    });
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("popgate ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_sorting_columns(Some(sorted_by.to_vec()));
    // Neither is worth a dictionary. What is near its neighbours is told by the difference;
    let near = [Column::Start, Column::End, Column::Session, Column::Generation].map(Column::name);
    for name in near {
        properties = properties
            .set_column_dictionary_enabled(at(name), false)
            .set_column_encoding(at(name), Encoding::DELTA_BINARY_PACKED);
    }
    // and of what may be anything, the bytes of one weight lie together: the upper ones are zeros.
    let wide = [Column::SourcePort, Column::NatSourcePort].map(Column::name);
    for name in Rollup::SUMS.map(Column::name).into_iter().chain(wide).chain([FLOWS]) {
        properties = properties
            .set_column_dictionary_enabled(at(name), false)
            .set_column_encoding(at(name), Encoding::BYTE_STREAM_SPLIT);
    }
    properties.build()
}
