//! An answer's table as a Parquet file.

use crate::store::report::{Cell, FlowAnswer, Holding};
use arrow_array::builder::StringDictionaryBuilder;
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

/// The whole file.
///
/// # Errors
/// It cannot be made.
pub fn parquet(answer: &FlowAnswer) -> Result<Vec<u8>, ParquetError> {
    let (columns, rows) = answer.table();
    let rows: Vec<Vec<Cell>> = rows.collect();
    let arrays = columns.iter().enumerate().map(|(at, column)| {
        let cells = rows.iter().map(|row| row.get(at).unwrap_or(&Cell::None));
        let numbers = cells.clone().map(|cell| match cell {
            Cell::Number(number) => Some(*number as i64),
            Cell::Text(_) | Cell::None => None,
        });
        let array: ArrayRef = match column.holds {
            Holding::Number => Arc::new(Int64Array::from_iter(numbers)),
            Holding::Time => Arc::new(TimestampMillisecondArray::from_iter(numbers).with_timezone("UTC")),
            Holding::Text => {
                let mut texts = StringDictionaryBuilder::<Int32Type>::new();
                cells.for_each(|cell| match cell {
                    Cell::Text(text) => texts.append_value(text),
                    Cell::Number(_) | Cell::None => texts.append_null(),
                });
                Arc::new(texts.finish())
            }
        };
        (column.name.as_str(), array, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(arrays)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default()));
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build()))?;
    writer.write(&batch)?;
    writer.into_inner()
}
