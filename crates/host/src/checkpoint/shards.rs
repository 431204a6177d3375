//! The safetensors files of a folder, mapped and read in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use barelm::llm::quant::GgmlType;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::read_json;
use crate::failure::Failure;

/// The one file of a model that was not split.
pub const SINGLE: &str = "model.safetensors";
/// Says which file each tensor of a split model is in.
const INDEX: &str = "model.safetensors.index.json";

/// All files of a model's weights.
pub struct Shards {
    files: Vec<(PathBuf, Mmap)>,
}

/// A tensor in one of them.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// Type of its elements.
    pub ty: GgmlType,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Row after row.
    pub data: &'a [u8],
}

impl Shards {
    /// Maps the files of a folder.
    ///
    /// # Errors
    /// A folder without weights in safetensors, or an index that names what is not there or leads out of the folder.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let names = match read_json(folder, INDEX)? {
            Some(index) => {
                let map = index["weight_map"].as_object().ok_or_else(|| {
                    Failure::Message(format!("{}: no weight_map", folder.join(INDEX).display()))
                })?;
                let mut names: Vec<String> =
                    map.values().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
                names.sort();
                names.dedup();
                names
            }
            None => vec![SINGLE.to_owned()],
        };
        let mut files = Vec::new();
        for name in names {
            if name.is_empty() || Path::new(&name).file_name() != Some(name.as_ref()) {
                return Err(Failure::Message(format!(
                    "{}: `{name}` is not a file of the folder",
                    folder.join(INDEX).display()
                )));
            }
            let path = folder.join(&name);
            let file = File::open(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Failure::Message(format!(
                    "{}: no such file; the folder must hold the model's weights as safetensors",
                    path.display()
                )),
                _ => Failure::because(path.display(), error),
            })?;
            // SAFETY: the map is read-only and private to us; weights are written once, under another name or before we
            // start, as `ModelFile` argues.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| Failure::because(path.display(), error))?;
            files.push((path, map));
        }
        Ok(Shards { files })
    }

    /// All tensors by name.
    ///
    /// # Errors
    /// A damaged file, a name in two files, or elements of a type that weights do not have.
    pub fn tensors(&self) -> Result<BTreeMap<String, Source<'_>>, Failure> {
        let mut all = BTreeMap::new();
        for (path, map) in &self.files {
            let wrong = |what: String| Failure::because(path.display(), what);
            let tensors = SafeTensors::deserialize(map).map_err(|error| wrong(error.to_string()))?;
            for (name, view) in tensors.iter() {
                let ty = match view.dtype() {
                    Dtype::F32 => GgmlType::F32,
                    Dtype::F16 => GgmlType::F16,
                    Dtype::BF16 => GgmlType::BF16,
                    other => {
                        return Err(wrong(format!(
                            "tensor {name} is {other:?}; F32, F16 and BF16 can be read"
                        )));
                    }
                };
                // The view borrows the file, not the header that was parsed.
                let source = Source { ty, shape: view.shape().to_vec(), data: view.data() };
                if all.insert(name.to_owned(), source).is_some() {
                    return Err(wrong(format!("tensor {name} is in another file too")));
                }
            }
        }
        Ok(all)
    }
}
