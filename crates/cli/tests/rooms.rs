//! The modules of this program and of `lora-peft` form no circles: of two beside each other, one may look at the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's path from the root of its crate.
type Module = Vec<String>;

/// The modules of a crate, with the paths that each one's text names.
fn modules(directory: &Path, own: &Module, found: &mut BTreeMap<Module, Vec<Module>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = match stem.as_str() {
            "lib" | "main" | "mod" => own.clone(),
            _ => [own.clone(), vec![stem]].concat(),
        };
        if path.is_dir() {
            modules(&path, &module, found);
        } else {
            let named = named(&std::fs::read_to_string(&path).unwrap(), &module);
            found.entry(module).or_default().extend(named);
        }
    }
}

/// What follows each `crate::` and `super::`, comments and the tests at a file's end left out.
fn named(text: &str, module: &Module) -> Vec<Module> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut named = Vec::new();
    for (start, keyword) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let mut base = match keyword {
            "crate::" => Module::new(),
            _ if code[..start].ends_with("super::") => continue,
            _ => module[..module.len() - 1].to_vec(),
        };
        let mut rest = &code[start + keyword.len()..];
        while let Some(further) = rest.strip_prefix("super::") {
            base.pop();
            rest = further;
        }
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split(['}', ';']).next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for path in list {
            let path = path.trim_start();
            let end =
                path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(path.len());
            let names = path[..end].split("::").filter(|name| !name.is_empty()).map(str::to_owned);
            named.push(base.iter().cloned().chain(names).collect());
        }
    }
    named
}

/// Which module looks at which beside it, by the module around them.
fn edges(modules: &BTreeMap<Module, Vec<Module>>) -> BTreeMap<Module, BTreeSet<(String, String)>> {
    let mut edges = BTreeMap::<Module, BTreeSet<_>>::new();
    for (from, named) in modules {
        for to in named {
            let shared = from.iter().zip(to).take_while(|(one, two)| one == two).count();
            let (Some(one), Some(two)) = (from.get(shared), to.get(shared)) else { continue };
            if modules.contains_key(&to[..=shared]) {
                let pair = (one.clone(), two.clone());
                edges.entry(from[..shared].to_vec()).or_default().insert(pair);
            }
        }
    }
    edges
}

/// What is left when whoever looks at nothing is taken away, again and again.
fn circles(mut edges: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    loop {
        let looking: BTreeSet<String> = edges.iter().map(|(from, _)| from.clone()).collect();
        let before = edges.len();
        edges.retain(|(_, to)| looking.contains(to));
        if edges.len() == before {
            return edges;
        }
    }
}

#[test]
fn rooms_form_no_circles() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    for (source, known) in
        [(here.join("src"), pair("commands", "console")), (here.join("../peft/src"), pair("merge", "update"))]
    {
        let mut found = BTreeMap::new();
        modules(&source, &Module::new(), &mut found);
        for (module, named) in &found {
            for path in named.iter().filter(|path| path.len() == 1 && path[0].starts_with(char::is_uppercase))
            {
                let allowed = ["Error", "Result"].contains(&path[0].as_str());
                assert!(allowed, "{module:?} takes {path:?} from the crate's root, not from its room");
            }
        }
        let edges = edges(&found);
        assert!(edges[&Module::new()].contains(&known), "{edges:?}");
        for (around, edges) in edges {
            let circles = circles(edges);
            assert!(circles.is_empty(), "{} {around:?}: {circles:?}", source.display());
        }
    }
}

#[test]
fn circles_are_found() {
    let modules = BTreeMap::from([
        (vec!["a".to_owned()], named("use crate::b::B;\n", &vec!["a".into()])),
        (vec!["b".to_owned()], named("use super::{c, d::D};\n", &vec!["b".into()])),
        (vec!["c".to_owned()], named("// super::d\nfn f() { crate::a::g() }\n", &vec!["c".into()])),
        (
            vec!["d".to_owned()],
            named("#[cfg(test)]\nmod tests { use super::super::b; }\n", &vec!["d".into()]),
        ),
    ]);
    let pairs = circles(edges(&modules).remove(&Module::new()).unwrap());
    let pairs: Vec<String> = pairs.into_iter().map(|(from, to)| format!("{from}{to}")).collect();
    assert_eq!(pairs, ["ab", "bc", "ca"]);
}
