//! Who holds what.

mod common;

use common::{layer, open, snapshot};
use rbuild_store::{Holder, Holding, ImageRecord, Parent, Resource, Store};

fn tag(store: &Store, name: &str, keeps: Vec<Resource>) {
    let image_id = rbuild_image::Digest::sha256_of(name.split(':').next().unwrap());
    let (manifest, session) = (None, String::new());
    store
        .set_tag(ImageRecord { reference: name.to_owned(), manifest, image_id, created: 0, keeps, session })
        .unwrap();
}

fn of<'h>(holdings: &'h [Holding], name: &str) -> &'h Holding {
    let is_it = |holding: &&Holding| match &holding.holder {
        Holder::Image { references, .. } => references.iter().any(|reference| reference == name),
        Holder::Nobody => name == "nobody",
        Holder::Running => name == "running",
        Holder::Cache => name == "cache",
    };
    holdings.iter().find(is_it).unwrap()
}

#[test]
fn images_share_and_hold_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    {
        let store = open(&root);
        let base = layer(&store, &[0; 1000]);
        let shared = snapshot(&store, &Parent::Layers(vec![base]), &[1; 100]);
        let own = snapshot(&store, &Parent::Snapshot(shared.id), &[2; 10]);
        tag(&store, "one:1", vec![Resource::Snapshot(own.id)]);
        tag(&store, "one:2", vec![Resource::Snapshot(own.id)]);
        tag(&store, "two:1", vec![Resource::Snapshot(shared.id)]);
        store.put_blob(&[3; 5]).unwrap();
        // All of it is in use by this session, too.
        let holdings = store.holdings().unwrap();
        assert_eq!((of(&holdings, "running").bytes, of(&holdings, "one:1").alone), (1115, 0));
        assert_eq!(of(&holdings, "running").alone, 5);
    }
    let holdings = open(&root).holdings().unwrap();
    let facts = |name| {
        let Holding { count, bytes, alone, .. } = of(&holdings, name);
        (*count, *bytes, *alone)
    };
    assert_eq!(facts("one:1"), (3, 1110, 10));
    assert_eq!(of(&holdings, "one:1"), of(&holdings, "one:2"));
    assert_eq!(facts("two:1"), (2, 1100, 0));
    assert_eq!(facts("nobody"), (1, 5, 5));
    assert_eq!((facts("running"), facts("cache")), ((0, 0, 0), (0, 0, 0)));
}
