//! Shard indices that are damaged, escape, or describe other files.

use std::fs;

use serde_json::{Map, Value, json};

use crate::case::{Case, Place, model};
use crate::weights::Container;

const INDEX: &str = "model/model.safetensors.index.json";
const SHARD: &str = "model/model-00001-of-00001.safetensors";
const NORM: &str = "model.norm.weight";

/// Makes the model a sharded one, with one shard, and hands out its weight map for changes.
fn sharded(place: &Place, change: impl Fn(&mut Map<String, Value>)) {
    let file = "model/model.safetensors";
    let container = Container::read(place, file);
    fs::rename(place.path(file), place.path(SHARD)).unwrap();
    let shard = json!("model-00001-of-00001.safetensors");
    let names = container.header.keys().filter(|k| *k != "__metadata__");
    let mut map: Map<String, Value> = names.map(|k| (k.clone(), shard.clone())).collect();
    change(&mut map);
    let index = json!({ "metadata": {}, "weight_map": map });
    place.write(INDEX, serde_json::to_vec(&index).unwrap());
}

/// A case that changes the weight map.
fn mapped(
    name: &'static str,
    says: &'static [&'static str],
    change: impl Fn(&mut Map<String, Value>) + Send + 'static,
) -> Case {
    model(name, 1, says, move |place| sharded(place, &change))
}

/// A case that gives the index another content.
fn content(name: &'static str, text: &'static [u8], says: &'static [&'static str]) -> Case {
    model(name, 1, says, move |place| {
        sharded(place, |_| {});
        place.write(INDEX, text);
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        content("index_is_empty", b"", &["index.json"]),
        content("index_is_no_json", b"{{", &["SPK2102", "index.json"]),
        content("index_without_weight_map", b"{}", &["weight_map"]),
        content("index_maps_nothing", b"{\"weight_map\": {}}", &["SPK2"]),
        content("index_maps_to_numbers", b"{\"weight_map\": {\"a\": 1}}", &["index.json"]),
        content(
            "index_key_twice",
            b"{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}",
            &["SPK2103", "\"a\""],
        ),
    ];
    cases.extend(shards());
    cases
}

fn shards() -> Vec<Case> {
    vec![
        mapped("shard_escapes_upwards", &["SPK2301", "../secret.safetensors"], |map| {
            map[NORM] = json!("../secret.safetensors");
        }),
        mapped("shard_path_is_absolute", &["SPK2301", "/etc/passwd"], |map| {
            map[NORM] = json!("/etc/passwd");
        }),
        mapped("shard_lies_in_a_folder", &["SPK2301"], |map| {
            map[NORM] = json!("sub/model.safetensors");
        }),
        mapped("shard_name_is_empty", &["SPK2301"], |map| map[NORM] = json!("")),
        mapped("shard_name_has_a_zero", &["SPK2"], |map| map[NORM] = json!("a\u{0}b")),
        mapped("shard_is_missing", &["SPK2302", "model-00002-of-00002.safetensors"], |map| {
            map[NORM] = json!("model-00002-of-00002.safetensors");
        }),
        mapped("index_names_a_tensor_the_shard_lacks", &["SPK2303", "model.extra"], |map| {
            map.insert("model.extra".to_string(), json!("model-00001-of-00001.safetensors"));
        }),
        model("tensor_in_two_shards", 1, &["SPK2304", "two shards"], |place| {
            sharded(place, |map| map[NORM] = json!("model-00002-of-00002.safetensors"));
            let bytes = place.bytes(SHARD);
            place.write("model/model-00002-of-00002.safetensors", bytes);
        }),
        model("shard_is_truncated", 1, &["SPK2206", "model-00001-of-00001"], |place| {
            sharded(place, |_| {});
            let bytes = place.bytes(SHARD);
            place.write(SHARD, &bytes[..bytes.len() - 100]);
        }),
    ]
}
