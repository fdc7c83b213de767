//! Safetensors files that are damaged, lie about themselves, or belong to another model.

use serde_json::{Map, Value, json};

use harness::run::run;

use crate::case::{Case, PROGRAM, Place, acting, command, model};

const WEIGHTS: &str = "model/model.safetensors";
const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

/// A safetensors file taken apart: its header and its data.
pub(crate) struct Container {
    pub(crate) header: Map<String, Value>,
    pub(crate) data: Vec<u8>,
}

impl Container {
    pub(crate) fn read(place: &Place, name: &str) -> Self {
        let bytes = place.bytes(name);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Container { header, data: bytes[8 + length..].to_vec() }
    }

    pub(crate) fn write(&self, place: &Place, name: &str) {
        let header = serde_json::to_vec(&self.header).unwrap();
        place.write(name, with_header(&header, &self.data));
    }

    /// An entry of the header.
    fn entry(&mut self, tensor: &str) -> &mut Value {
        self.header.get_mut(tensor).unwrap()
    }
}

fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    bytes
}

/// A case that changes header or data.
fn container(
    name: &'static str,
    says: &'static [&'static str],
    change: impl Fn(&mut Container) + Send + 'static,
) -> Case {
    model(name, 1, says, move |place| {
        let mut container = Container::read(place, WEIGHTS);
        change(&mut container);
        container.write(place, WEIGHTS);
    })
}

/// A case that changes the bytes of the file.
fn bytes(
    name: &'static str,
    says: &'static [&'static str],
    change: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static,
) -> Case {
    model(name, 1, says, move |place| place.write(WEIGHTS, change(place.bytes(WEIGHTS))))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = damaged();
    cases.extend(lying());
    cases.extend(of_another_model());
    cases.extend(no_numbers());
    cases
}

fn damaged() -> Vec<Case> {
    vec![
        bytes("weights_are_empty", &["model.safetensors"], |_| Vec::new()),
        bytes("weights_have_seven_bytes", &["SPK2201", "7 bytes"], |b| b[..7].to_vec()),
        bytes("weights_are_text", &["model.safetensors"], |_| {
            b"version https://git-lfs.github.com/spec/v1\n".to_vec()
        }),
        bytes("weights_lack_the_last_byte", &["SPK2206"], |b| b[..b.len() - 1].to_vec()),
        bytes("weights_end_in_the_header", &["SPK2202"], |b| b[..100].to_vec()),
        bytes("weights_end_in_the_data", &["SPK2206"], |b| b[..b.len() / 2].to_vec()),
        bytes("weights_have_a_tail", &["SPK2206"], |mut b| {
            b.extend([0; 16]);
            b
        }),
        bytes("header_is_no_json", &["model.safetensors"], |b| with_header(b"not json", &b[8..])),
        bytes("header_is_a_list", &["model.safetensors"], |b| with_header(b"[]", &b[8..])),
        bytes("header_is_not_utf8", &["SPK2101"], |b| with_header(b"{\"\xff\": {}}", &b[8..])),
        bytes("header_has_no_bytes", &["model.safetensors"], |b| with_header(b"", &b[8..])),
        bytes("header_is_cut_off", &["model.safetensors"], |mut b| {
            let length = u64::from_le_bytes(b[..8].try_into().unwrap());
            b[..8].copy_from_slice(&(length - 10).to_le_bytes());
            b
        }),
    ]
}

fn lying() -> Vec<Case> {
    vec![
        bytes("header_claims_all_memory", &["SPK2202"], |mut b| {
            b[..8].copy_from_slice(&u64::MAX.to_le_bytes());
            b
        }),
        bytes("header_claims_more_than_the_file", &["SPK2202"], |mut b| {
            let length = b.len() as u64;
            b[..8].copy_from_slice(&length.to_le_bytes());
            b
        }),
        container("tensor_without_dtype", &["SPK2203", EMBEDDING], |c| {
            c.entry(EMBEDDING).as_object_mut().unwrap().remove("dtype");
        }),
        container("tensor_without_shape", &["SPK2203", EMBEDDING], |c| {
            c.entry(EMBEDDING).as_object_mut().unwrap().remove("shape");
        }),
        container("tensor_without_offsets", &["SPK2203", EMBEDDING], |c| {
            c.entry(EMBEDDING).as_object_mut().unwrap().remove("data_offsets");
        }),
        container("tensor_is_a_number", &["SPK2203", EMBEDDING], |c| {
            *c.entry(EMBEDDING) = json!(7);
        }),
        container("dtype_is_unknown", &[EMBEDDING, "F13"], |c| {
            c.entry(EMBEDDING)["dtype"] = json!("F13");
        }),
        container("offsets_are_reversed", &[EMBEDDING], |c| {
            let offsets = &c.entry(EMBEDDING)["data_offsets"];
            let reversed = json!([offsets[1], offsets[0]]);
            c.entry(EMBEDDING)["data_offsets"] = reversed;
        }),
        container("offsets_are_negative", &["SPK2203", EMBEDDING], |c| {
            c.entry(EMBEDDING)["data_offsets"] = json!([-4, 4]);
        }),
        container("offsets_are_beyond_the_file", &["model.safetensors"], |c| {
            c.entry(EMBEDDING)["data_offsets"] = json!([1u64 << 60, (1u64 << 60) + 12288]);
        }),
        container("tensors_overlap", &["SPK2204", "overlaps"], |c| {
            let first = c.entry(EMBEDDING)["data_offsets"].clone();
            let (start, end) = (first[0].as_u64().unwrap(), first[1].as_u64().unwrap());
            let shape = c.entry(EMBEDDING)["shape"].clone();
            c.header.insert(
                "twin".to_string(),
                json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }),
            );
        }),
        container("there_is_a_gap", &["SPK2204", "gap"], |c| {
            for entry in c.header.values_mut().filter(|e| e.get("data_offsets").is_some()) {
                let offsets = &entry["data_offsets"];
                let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
                entry["data_offsets"] = json!([start + 64, end + 64]);
            }
            c.data.splice(0..0, [0; 64]);
        }),
        container("shape_is_larger_than_the_bytes", &["SPK2205", NORM], |c| {
            c.entry(NORM)["shape"] = json!([33]);
        }),
        container("shape_overflows", &["model.safetensors", NORM], |c| {
            c.entry(NORM)["shape"] = json!([1u64 << 40, 1u64 << 40]);
        }),
        container("shape_is_negative", &["SPK2203", NORM], |c| {
            c.entry(NORM)["shape"] = json!([-32]);
        }),
        model("tensor_is_listed_twice", 1, &["SPK2103", NORM], |place| {
            let container = Container::read(place, WEIGHTS);
            let text = serde_json::to_string(&container.header).unwrap();
            let entry = format!("\"{NORM}\":{}", container.header[NORM]);
            let doubled = format!("{},{entry}}}", text.trim_end_matches('}').to_string() + "}");
            place.write(WEIGHTS, with_header(doubled.as_bytes(), &container.data));
        }),
    ]
}

fn of_another_model() -> Vec<Case> {
    vec![
        container("tensor_is_missing", &["SPK2401", "model.norm.gain", NORM], |c| {
            let entry = c.header.remove(NORM).unwrap();
            c.header.insert("model.norm.gain".to_string(), entry);
        }),
        container("all_tensors_have_another_prefix", &["SPK2401"], |c| {
            let header = std::mem::take(&mut c.header);
            c.header = header.into_iter().map(|(k, v)| (k.replace("model.", "net."), v)).collect();
        }),
        container("matrix_is_transposed", &["SPK2403", "[24, 32]", "[32, 24]"], |c| {
            let name = "model.layers.0.mlp.up_proj.weight";
            c.entry(name)["shape"] = json!([32, 24]);
        }),
        container("vector_is_a_matrix", &["SPK2403", NORM], |c| {
            c.entry(NORM)["shape"] = json!([1, 32]);
        }),
        container("weights_are_integers", &["SPK2404", NORM], |c| {
            c.entry(NORM)["dtype"] = json!("I32");
        }),
        container("file_holds_no_tensor", &["SPK2401"], |c| {
            c.header.clear();
            c.data.clear();
        }),
    ]
}

const HEAD: &str = "lm_head.weight";

/// Sets elements of an f32 tensor.
fn set(place: &Place, tensor: &str, elements: std::ops::Range<usize>, value: f32) {
    let mut container = Container::read(place, WEIGHTS);
    let start = container.entry(tensor)["data_offsets"][0].as_u64().unwrap() as usize;
    for i in elements {
        container.data[start + 4 * i..][..4].copy_from_slice(&value.to_le_bytes());
    }
    container.write(place, WEIGHTS);
}

/// Weights that are no numbers, and weights whose products are none.
fn no_numbers() -> Vec<Case> {
    let nan = |name, args, says| command(name, args, 1, says, |p| set(p, HEAD, 70..72, f32::NAN));
    let says = &["SPK1301", HEAD, "2 of 3072", "NaN at [2, 6]"];
    let overflow = |place: &Place| set(place, HEAD, 0..3072, 3e38);
    let after_compiling = |name, code, args: &'static [&'static str]| {
        acting(name, 1, code, overflow, move |place| {
            let line = ["compile", "model", "-o", "model/out", "--target", "small"];
            let compiled = run(PROGRAM, &place.folder, &line).map_err(|e| format!("{e:#}"))?;
            if compiled.code != Some(0) {
                return Err(compiled.to_string());
            }
            let (program, args) = match args {
                ["itself", args @ ..] => (place.path("model/out/model"), args),
                args => (PROGRAM.into(), args),
            };
            run(program, &place.folder, args).map_err(|e| format!("{e:#}"))
        })
    };
    vec![
        nan("executable_of_nan", &["compile", "model", "--emit", "cpu", "-o", "out"], says),
        nan("quantised_nan", &["compile", "model", "--quant", "q8", "-o", "out"], says),
        nan("dry_run_of_nan", &["compile", "model", "--emit", "cpu", "--dry-run"], says),
        nan(
            "plan_of_nan",
            &["compile", "model", "--target", "small", "--emit", "wafer", "-o", "out"],
            says,
        ),
        nan("nan_is_run", &["run", "model", "--tokens", "1"], says),
        nan(
            "nan_is_evaluated",
            &["eval", "model", "--tokens", "1"],
            &["SPK5206", "1 NaN and 0 infinite among 96"],
        ),
        command(
            "infinity_in_a_norm",
            &["compile", "model", "--emit", "cpu", "-o", "out"],
            1,
            &["SPK1301", NORM, "1 of 32", "-inf at [31]"],
            |p| set(p, NORM, 31..32, f32::NEG_INFINITY),
        ),
        command(
            "a_weight_beyond_its_quantisation",
            &["compile", "model", "--emit", "cpu", "--quant", "q8", "-o", "out"],
            1,
            &["SPK4007", HEAD, "too large for q8", "--quant none"],
            |p| set(p, HEAD, 5..6, 1e30),
        ),
        after_compiling("logits_overflow", &["SPK5206", "token 0"], &["itself", "--tokens", "1"]),
        after_compiling(
            "sampled_logits_overflow",
            &["SPK5206", "token 1"],
            &["itself", "--tokens", "1,2", "--temp", "0.7"],
        ),
        after_compiling(
            "simulated_logits_overflow",
            &["SPK5206"],
            &["simulate", "model/out", "--tokens", "1", "-n", "2"],
        ),
    ]
}
