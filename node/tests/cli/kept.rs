//! The trees that are kept for a rollback: listed with their size, and deleted early when somebody wants that.

use std::fs;

use crate::support::{Place, assert_code, assert_same, events, make_tree, picture, stderr, stdout};

#[test]
fn what_is_kept_is_listed_and_forgotten_only_with_a_yes() {
    let place = Place::new();
    assert_code(&place.run("importer", &["kept"]), 0);
    assert!(!place.path("importer").exists(), "a look makes no state");
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old");
    fs::write(place.path("dst/only here"), vec![7; 100_000]).unwrap();
    let sender = place.send(&["src"]);
    assert_code(&place.run_with_input("importer", &["receive", "-y", "dst"], &sender.ticket), 0);
    assert_eq!(sender.wait().code, Some(0));
    let new = picture(&place.path("dst"));

    let listed = place.run("importer", &["--json", "kept"]);
    assert_code(&listed, 0);
    let kept = events(&stdout(&listed)).remove(0);
    assert_eq!(kept["event"], "kept");
    assert!(kept["bytes"].as_u64().unwrap() >= 100_000, "{kept}");
    let retained = std::path::PathBuf::from(kept["retained"].as_str().unwrap());
    assert!(retained.join("only here").exists());
    assert_eq!(events(&stdout(&listed)).pop().unwrap()["bytes"], kept["bytes"]);

    let refused = place.run("importer", &["forget", "dst"]);
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("-y") && retained.exists(), "{}", stderr(&refused));
    assert_code(&place.run("importer", &["forget", "-y", "src"]), 2);
    assert_code(&place.run("importer", &["forget", "-y", "dst"]), 0);
    assert!(!retained.exists());
    assert_same(&new, &picture(&place.path("dst")));
    assert_eq!(stdout(&place.run("importer", &["kept"])), "");
    assert_code(&place.run("importer", &["rollback", "-y", "dst"]), 11);
}

#[test]
fn an_undone_tree_is_listed_as_what_it_is_and_comes_back_by_the_command_that_is_shown() {
    for existed in [true, false] {
        let place = Place::new();
        make_tree(&place.path("src"), "new");
        if existed {
            make_tree(&place.path("dst"), "old");
        }
        let sender = place.send(&["src"]);
        let args = ["receive", "-y", "dst", "--post-apply", "false"];
        let failed = place.run_with_input("importer", &args, &sender.ticket);
        assert_code(&failed, 12);
        assert!(stderr(&failed).contains(" kept`"), "{}", stderr(&failed));
        assert_eq!(sender.wait().code, Some(12));

        let listed = place.run("importer", &["kept"]);
        assert!(stdout(&listed).contains("\tundone tree\t"), "{}", stdout(&listed));
        let way = events(&stdout(&place.run("importer", &["--json", "kept"]))).remove(0);
        let way = way["way_back"].as_str().unwrap().to_owned();
        assert!(stderr(&listed).contains(&way), "{}", stderr(&listed));
        let old = existed.then(|| picture(&place.path("dst")));
        assert!(std::process::Command::new("sh").args(["-ec", &way]).status().unwrap().success());
        assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
        if let Some(old) = old {
            let names = fs::read_dir(place.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
            let aside = names.map(|name| name.into_string().unwrap()).find(|name| name.starts_with("dst.before-"));
            assert_same(&old, &picture(&place.path(&aside.unwrap())));
        }
        // nothing is kept any more, and the next start finds nothing that it does not understand
        let listed = place.run("importer", &["kept"]);
        assert_eq!((stdout(&listed).as_str(), stderr(&listed).contains("could not be settled")), ("", false));
        assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    }
}
