//! What the writer writes, the reader reads; and questions of the wrong type get an error.

use barelm::llm::gguf::{Gguf, GgufError, Value, ValueType, WriteError, Writer};
use barelm::llm::quant::GgmlType;

/// The whole file: header, and data that counts bytes up.
fn finish(writer: Writer, data_bytes: &[usize]) -> Vec<u8> {
    let mut file = Vec::new();
    let sink = |bytes: &[u8]| {
        file.extend_from_slice(bytes);
        Ok::<(), ()>(())
    };
    let mut data = writer.begin(sink).unwrap();
    for &len in data_bytes {
        // In two pieces, as a converter does.
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        data.write(&bytes[..len / 2]).unwrap();
        data.write(&bytes[len / 2..]).unwrap();
    }
    data.finish().unwrap();
    file
}

const SCALARS: [(&str, Value<'static>); 12] = [
    ("u8", Value::U8(200)),
    ("i8", Value::I8(-100)),
    ("u16", Value::U16(60_000)),
    ("i16", Value::I16(-30_000)),
    ("u32", Value::U32(4_000_000_000)),
    ("i32", Value::I32(-2_000_000_000)),
    ("f32", Value::F32(0.1)),
    ("bool", Value::Bool(true)),
    ("str", Value::Str("grüße")),
    ("u64", Value::U64(1 << 60)),
    ("i64", Value::I64(-1 << 60)),
    ("f64", Value::F64(0.1)),
];

fn everything() -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in SCALARS {
        writer.put(key, value);
    }
    writer.put_strings("strings", &[&b"a"[..], b"", b"\xff\xfe"]);
    writer.put_f32s("f32s", &[1.0, -2.5]);
    writer.put_i32s("i32s", &[1, -1]);
    writer.tensor::<()>("b", GgmlType::Q8_0, &[64, 3]).unwrap();
    writer.tensor::<()>("a", GgmlType::F32, &[5]).unwrap();
    finish(writer, &[204, 20])
}

#[test]
fn what_is_written_is_read_back() {
    let file = everything();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.tensor_count()), (3, 32, 2));
    assert_eq!(gguf.file_size(), file.len() as u64);
    assert_eq!(gguf.header_bytes() + 224 + 32, file.len() as u64);
    for (key, value) in SCALARS {
        assert_eq!(gguf.get(key), Some(value));
    }
    let keys: Vec<&str> = gguf.metadata().map(|(key, _)| key).collect();
    assert_eq!(keys[..2], ["u8", "i8"], "the file's order is kept");

    let strings = gguf.get_array("strings").unwrap().unwrap();
    assert_eq!((strings.len(), strings.element_type()), (3, ValueType::Str));
    assert_eq!(strings.strings().unwrap().collect::<Vec<_>>(), [&b"a"[..], b"", b"\xff\xfe"]);
    assert!(strings.f32s().is_none() && strings.i32s().is_none());
    let f32s = gguf.get_array("f32s").unwrap().unwrap();
    assert_eq!(f32s.f32s().unwrap().collect::<Vec<_>>(), [1.0, -2.5]);
    assert!(f32s.strings().is_none());
    let i32s = gguf.get_array("i32s").unwrap().unwrap();
    assert_eq!(i32s.i32s().unwrap().collect::<Vec<_>>(), [1, -1]);

    let b = gguf.tensor("b").unwrap();
    assert_eq!((b.dims, b.n_dims, b.offset, b.size_bytes, b.elements()), ([64, 3, 1, 1], 2, 0, 204, 192));
    let a = gguf.tensor("a").unwrap();
    assert_eq!((a.dims, a.n_dims, a.offset, a.size_bytes), ([5, 1, 1, 1], 1, 224, 20));
    let counted: Vec<u8> = (0..204).collect();
    assert_eq!(gguf.data(&b), Ok(&counted[..]));
    assert_eq!(gguf.data(&a), Ok(&counted[..20]));
    assert!(gguf.tensor("c").is_none() && gguf.get("nothing").is_none());
}

#[test]
fn arrays_of_the_reader_go_back_through_the_writer() {
    let file = everything();
    let gguf = Gguf::parse(&file).unwrap();
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata() {
        writer.put(key, value);
    }
    for tensor in gguf.tensors() {
        writer.tensor::<()>(tensor.name, tensor.ty, &tensor.dims[..tensor.n_dims]).unwrap();
    }
    assert_eq!(finish(writer, &[204, 20]), file);
}

#[test]
fn typed_questions_convert_or_refuse() {
    let file = everything();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.get_u32("u8"), Ok(Some(200)));
    assert_eq!(gguf.get_u32("u32"), Ok(Some(4_000_000_000)));
    assert_eq!(gguf.get_u64("u64"), Ok(Some(1 << 60)));
    assert_eq!(gguf.get_f32("f64"), Ok(Some(0.1)));
    assert_eq!(gguf.get_bool("bool"), Ok(Some(true)));
    assert_eq!(gguf.get_str("str"), Ok(Some("grüße")));
    assert_eq!(gguf.get_u32("absent"), Ok(None));
    for key in ["u64", "i32", "f32", "bool", "str", "strings"] {
        let error = gguf.get_u32(key).unwrap_err();
        assert!(matches!(error, GgufError::WrongType { key: name, .. } if name.as_str() == key), "{error}");
    }
    assert!(gguf.get_f32("u32").is_err() && gguf.get_bool("u8").is_err());
    assert!(gguf.get_str("u32").is_err() && gguf.get_array("str").is_err());
    let message = gguf.get_u32("str").unwrap_err().to_string();
    assert_eq!(message, "metadata `str` must be an unsigned 32-bit integer, not this string");
}

#[test]
fn the_header_alone_is_enough_for_everything_but_data() {
    let file = everything();
    let whole = Gguf::parse(&file).unwrap();
    let header = &file[..whole.header_bytes() as usize];
    let gguf = Gguf::parse_header(header, file.len() as u64).unwrap();
    assert_eq!(gguf.tensor("b"), whole.tensor("b"));
    let error = gguf.data(&gguf.tensor("b").unwrap()).unwrap_err();
    assert!(matches!(error, GgufError::HeaderOnly { tensor } if tensor.as_str() == "b"));
    let error = Gguf::parse_header(header, file.len() as u64 - 13).unwrap_err();
    assert!(
        matches!(error, GgufError::PastEnd { missing: 1, .. }),
        "12 bytes of padding may be missing: {error}"
    );
}

#[test]
fn version_2_is_read_and_others_are_named() {
    let mut file = everything();
    file[4] = 2;
    assert_eq!(Gguf::parse(&file).unwrap().version(), 2);
    for (version, expected) in [
        (1u32, GgufError::Version { found: 1 }),
        (4, GgufError::Version { found: 4 }),
        (3 << 24, GgufError::BigEndian),
    ] {
        file[4..8].copy_from_slice(&version.to_le_bytes());
        assert_eq!(Gguf::parse(&file).unwrap_err(), expected);
    }
    file[0] = b'g';
    assert_eq!(Gguf::parse(&file).unwrap_err(), GgufError::Magic);
}

#[test]
fn alignment_of_the_file_is_honoured() {
    let mut writer = Writer::new();
    writer.put("general.alignment", Value::U32(256));
    writer.tensor::<()>("a", GgmlType::F16, &[3]).unwrap();
    writer.tensor::<()>("b", GgmlType::BF16, &[1, 1, 2, 1]).unwrap();
    let file = finish(writer, &[6, 4]);
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.alignment(), gguf.header_bytes() % 256), (256, 0));
    assert_eq!(gguf.tensor("b").unwrap().offset, 256);
    assert_eq!(gguf.data(&gguf.tensor("b").unwrap()), Ok(&[0, 1, 2, 3][..]));
}

#[test]
fn the_writer_refuses_impossible_shapes_and_wrong_amounts_of_data() {
    let mut writer = Writer::new();
    for dims in [&[33][..], &[], &[0], &[32, 0], &[32, 1, 1, 1, 1], &[32, u64::MAX]] {
        let error = writer.tensor::<()>("w", GgmlType::Q4_0, dims).unwrap_err();
        assert!(matches!(error, WriteError::Shape { ty: GgmlType::Q4_0, .. }), "{dims:?}");
    }
    writer.tensor::<()>("w", GgmlType::Q4_0, &[32]).unwrap();
    let sink = |_: &[u8]| Ok::<(), ()>(());
    let mut data = writer.clone().begin(sink).unwrap();
    data.write(&[0; 17]).unwrap();
    assert_eq!(data.finish(), Err(WriteError::Length { expected: 32, given: 17 }));
    let mut data = writer.clone().begin(sink).unwrap();
    assert!(matches!(data.write(&[0; 19]), Err(WriteError::Length { .. })));
    let mut data = writer.begin(sink).unwrap();
    data.write(&[0; 18]).unwrap();
    assert!(matches!(data.write(&[0]), Err(WriteError::Length { .. })));
    assert_eq!(Writer::new().begin(|_: &[u8]| Err("full")).unwrap_err(), WriteError::Sink("full"));
}
