//! Paths that lead to no model.

use std::fs;

use crate::case::{Case, command, model};

fn nothing(_: &crate::case::Place) {}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        command(
            "path_does_not_exist",
            &["eval", "nowhere", "--tokens", "1"],
            1,
            &["nowhere", "SPK2001"],
            nothing,
        ),
        command("path_is_empty", &["eval", "", "--tokens", "1"], 2, &["MODEL"], nothing),
        command(
            "path_is_a_device",
            &["eval", "/dev/null", "--tokens", "1"],
            1,
            &["/dev/null", "SPK2003"],
            nothing,
        ),
        model("directory_is_empty", 1, &["contains no config.json", "SPK2008"], |place| {
            place.delete("model/config.json");
            place.delete("model/model.safetensors");
        }),
        model("directory_without_config", 1, &["contains no config.json"], |place| {
            place.delete("model/config.json");
        }),
        model("directory_without_weights", 1, &["SPK2009", "no weights"], |place| {
            place.delete("model/model.safetensors");
        }),
        model(
            "two_weight_files_and_no_index",
            1,
            &["SPK2010", "a.safetensors", "b.safetensors"],
            |p| {
                fs::rename(p.path("model/model.safetensors"), p.path("model/a.safetensors"))
                    .unwrap();
                fs::copy(p.path("model/a.safetensors"), p.path("model/b.safetensors")).unwrap();
            },
        ),
        model("pickled_weights_only", 1, &["SPK2006", "pickle"], |place| {
            place.delete("model/model.safetensors");
            place.write("model/pytorch_model.bin", b"PK\x03\x04");
        }),
        model("config_is_a_directory", 1, &["config.json", "directory"], |place| {
            place.delete("model/config.json");
            fs::create_dir(place.path("model/config.json")).unwrap();
        }),
        model("weights_are_a_directory", 1, &["model.safetensors"], |place| {
            place.delete("model/model.safetensors");
            fs::create_dir(place.path("model/model.safetensors")).unwrap();
        }),
        model("weights_are_a_dangling_link", 1, &["model"], |place| {
            place.delete("model/model.safetensors");
            let link = place.path("model/model.safetensors");
            std::os::unix::fs::symlink("nowhere", link).unwrap();
        }),
        command(
            "gguf_file",
            &["eval", "m.gguf", "--tokens", "1"],
            1,
            &["SPK2702", "ends too early"],
            |place| {
                place.write("m.gguf", b"GGUF\x03\0\0\0");
            },
        ),
        command(
            "onnx_file",
            &["eval", "m.onnx", "--tokens", "1"],
            1,
            &["SPK2006", "ONNX"],
            |place| {
                place.write("m.onnx", b"\x08\x07\x12\x07pytorch");
            },
        ),
        command(
            "file_of_no_known_kind",
            &["eval", "notes.txt", "--tokens", "1"],
            1,
            &["SPK2007"],
            |place| {
                place.write("notes.txt", b"buy milk");
            },
        ),
        command(
            "json_that_is_no_config",
            &["eval", "other.json", "--tokens", "1"],
            1,
            &["other.json"],
            |place| place.write("other.json", br#"{"name": "milk"}"#),
        ),
        command(
            "safetensors_without_config",
            &["eval", "lonely/model.safetensors", "--tokens", "1"],
            1,
            &["config.json", "does not exist"],
            |place| {
                fs::create_dir(place.path("lonely")).unwrap();
                let bytes = place.bytes("model/model.safetensors");
                place.write("lonely/model.safetensors", bytes);
            },
        ),
        command(
            "bare_config_has_no_weights_to_run",
            &["eval", "model/config.json", "--tokens", "1"],
            1,
            &["shapes only"],
            nothing,
        ),
    ]
}
