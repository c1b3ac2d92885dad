//! What must hold for every value, not only for those in tables.

use proptest::prelude::*;
use rbuild_image::{Digest, Document, ImageConfig, MediaType, Platform, Reference};
use serde_json::{Map, Value, json};

fn domain() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("docker.io".to_owned()),
        "[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?\\.[a-z]{2,5}(:[1-9][0-9]{0,3})?",
        "localhost(:[1-9][0-9]{0,3})?",
        Just("[2001:db8::1]:5000".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let component = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}";
    prop::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"))
}

/// Any JSON, to stand for keys that nobody knows.
fn unknown() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from)
    ];
    leaf.prop_recursive(2, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from))
}

prop_compose! {
    fn config()(
        env in prop::collection::vec("[A-Z]{1,4}=.{0,6}", 1..4),
        command in prop::option::of(prop::collection::vec(".{1,5}", 1..3)),
        labels in prop::collection::btree_map("[a-z.]{1,6}", ".{0,6}", 1..4),
        interval in 1..i64::MAX,
        vendor in prop::collection::btree_map("x-[a-z]{1,6}", unknown(), 0..4),
        inner in prop::collection::btree_map("X[a-z]{1,6}", unknown(), 0..4),
        layers in prop::collection::vec(any::<u64>(), 0..4),
    ) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|seed| Digest::sha256_of(seed.to_string()).to_string()).collect();
        let mut config: Map<String, Value> = inner.into_iter().collect();
        config.insert("Env".into(), json!(env));
        config.insert("Labels".into(), json!(labels));
        config.insert("Healthcheck".into(), json!({"Test": ["CMD", "x"], "Interval": interval}));
        config.extend(command.map(|command| ("Cmd".to_owned(), json!(command))));
        let mut top: Map<String, Value> = vendor.into_iter().collect();
        top.insert("architecture".into(), json!("amd64"));
        top.insert("os".into(), json!("linux"));
        top.insert("config".into(), Value::Object(config));
        top.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
        top.insert("history".into(), json!([{"created": "2024-01-01T00:00:00Z", "created_by": "RUN x", "empty_layer": true, "x-more": 1}]));
        Value::Object(top)
    }
}

proptest! {
    // A failing case belongs into a table, not into a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn references_survive_being_written_and_read(
        domain in domain(), path in path(), tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"), pinned in any::<bool>(),
    ) {
        let mut text = format!("{domain}/{path}");
        text.extend(tag.iter().flat_map(|tag| [":", tag]));
        if pinned {
            text.push_str(&format!("@{}", Digest::sha256_of(&path)));
        }
        let reference = Reference::parse(&text).unwrap();
        prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
        prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
        prop_assert_eq!(reference.domain(), &domain);
        prop_assert!(reference.path().ends_with(&path));
        prop_assert_eq!(reference.tag().is_some(), tag.is_some() || !pinned);
    }

    #[test]
    fn what_parses_can_be_written_and_parsed_again(text in "[A-Za-z0-9./:@_\\-\\[\\] ]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }
    }

    #[test]
    fn platforms_survive_and_satisfy_themselves(text in "(linux|windows|darwin|freebsd)(\\(1\\.2\\))?/(amd64|arm64|arm|386|s390x|x86_64|armhf)(/v[1-9])?") {
        let platform = Platform::parse(&text).unwrap();
        prop_assert_eq!(&Platform::parse(&platform.to_string()).unwrap(), &platform);
        prop_assert!(platform.satisfies(&platform));
    }

    #[test]
    fn configs_keep_everything(value in config()) {
        let text = value.to_string();
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        let written = config.to_bytes();
        prop_assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), value);
        prop_assert_eq!(&ImageConfig::parse(&written).unwrap(), &config);
        prop_assert_eq!(config.to_bytes(), written);
    }

    #[test]
    fn no_input_makes_the_parsers_panic(text in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Reference::parse(&text);
        let _ = Platform::parse(&text);
        let _ = text.parse::<Digest>();
        let _ = ImageConfig::parse(&bytes);
        let _ = Document::parse(&MediaType::ImageManifest, &bytes);
    }
}
