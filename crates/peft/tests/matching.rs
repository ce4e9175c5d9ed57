//! Names are looked up by hash; what is found must be what PEFT's rules say, one pattern after the other.

use fancy_regex::Regex;
use lora_peft::AdapterConfig;
use lora_peft::adapter::ModuleNames;
use lora_peft::adapter::{Match, Matcher};
use proptest::prelude::*;

/// PEFT's rules as they are written down: every name and pattern tried in turn.
struct Definition<'a>(&'a AdapterConfig);

impl Definition<'_> {
    fn first<T: Copy>(patterns: &[(String, T)], path: &str) -> Option<T> {
        let fits =
            |text: &str| Regex::new(&format!(r"\A(?:.*\.)?(?:{text})$")).unwrap().is_match(path).unwrap();
        patterns.iter().find(|(text, _)| fits(text)).map(|(_, value)| *value)
    }

    fn named(list: &[String], path: &str) -> bool {
        list.iter().any(|name| path == name || path.ends_with(&format!(".{name}")))
    }

    fn names(names: &Option<ModuleNames>, path: &str) -> bool {
        match names {
            None => false,
            Some(ModuleNames::List(list)) => Self::named(list, path),
            Some(ModuleNames::Pattern(text)) => {
                Regex::new(&format!(r"\A(?:{text})\z")).unwrap().is_match(path).unwrap()
            }
        }
    }

    fn in_layers(&self, path: &str) -> bool {
        let Some(layers) = &self.0.layers_to_transform else { return true };
        let index = Regex::new(r"\A.*?\.[^.]*\.(\d+)\.").unwrap().captures(path).unwrap();
        index.is_some_and(|found| layers.contains(&found.get(1).unwrap().as_str().parse().unwrap()))
    }

    fn matches(&self, path: &str) -> Match {
        let saved = |name: &String| {
            let text = format!(r"\A(?:^|.*\.)(?:{name})(?:$|\..*)");
            Regex::new(&text).unwrap().is_match(path).unwrap()
        };
        if Self::names(&self.0.exclude_modules, path) || self.0.modules_to_save.iter().any(saved) {
            return Match::Excluded;
        }
        let targeted = match &self.0.target_modules {
            Some(ModuleNames::List(list)) => {
                list.iter().any(|name| name == path) || (Self::named(list, path) && self.in_layers(path))
            }
            names => Self::names(names, path),
        };
        if targeted { Match::Targeted } else { Match::Unmatched }
    }
}

/// Names of few different parts, and not only well-formed ones, so that they often meet.
fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "(model|h|a|q_proj|x)?(\\.(layers|h|a|b|0|1|10|q_proj|qXproj|))\
              {0,4}",
        1 => "[ab.\n$^é]{0,6}",
    ]
}

/// Plain names, with anchors and escapes, and real patterns among them.
fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => path().prop_map(|path| fancy_regex::escape(&path).replace(r"\.", ".")),
        2 => path().prop_map(|path| fancy_regex::escape(&path).into_owned()),
        2 => "\\^?(model|a|h)?(\\\\?\\.(a|b|0|q_proj|q-proj|q\\\\-proj)){0,3}\\$?",
        1 => Just(r".*\.(a|b)".to_owned()),
        1 => Just(r"layers\.\d+\..*".to_owned()),
        1 => Just(r"(?!.*b).*a".to_owned()),
        1 => "[ab.]{0,3}",
    ]
}

fn lists() -> impl Strategy<Value = Option<ModuleNames>> {
    prop_oneof![
        1 => Just(None),
        4 => prop::collection::vec(path(), 0..6).prop_map(|list| Some(ModuleNames::List(list))),
        1 => pattern().prop_map(|text| Some(ModuleNames::Pattern(text))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn names_found_by_hash_are_those_of_the_definition(
        target_modules in lists(),
        exclude_modules in lists(),
        modules_to_save in prop::collection::vec(pattern(), 0..3),
        target_parameters in prop::collection::vec(path(), 0..4),
        layers in prop::option::of(prop::collection::vec(prop_oneof![Just(0u64), Just(1), Just(10)], 1..3)),
        ranks in prop::collection::vec((pattern(), 1usize..99), 0..8),
        alphas in prop::collection::vec((pattern(), 1u32..99), 0..8),
        paths in prop::collection::vec(path(), 1..8),
    ) {
        let config = AdapterConfig {
            target_modules,
            exclude_modules,
            modules_to_save,
            target_parameters,
            layers_to_transform: layers,
            rank_pattern: ranks,
            alpha_pattern: alphas.into_iter().map(|(text, alpha)| (text, f64::from(alpha))).collect(),
            ..AdapterConfig::default()
        };
        let (matcher, definition) = (Matcher::new(&config).unwrap(), Definition(&config));
        for path in &paths {
            prop_assert_eq!(matcher.matches(path).unwrap(), definition.matches(path), "{:?}", path);
            let rank = Definition::first(&config.rank_pattern, path).unwrap_or(config.rank);
            prop_assert_eq!(matcher.rank(path).unwrap(), rank, "{:?}", path);
            let alpha = Definition::first(&config.alpha_pattern, path).unwrap_or(config.alpha);
            prop_assert_eq!(matcher.alpha(path).unwrap(), alpha, "{:?}", path);
            let saves = config.modules_to_save.iter().any(|name| path.ends_with(name.as_str()));
            prop_assert_eq!(matcher.saves(path), saves, "{:?}", path);
            let parameter = Definition::named(&config.target_parameters, path);
            prop_assert_eq!(matcher.targets_parameter(path), parameter, "{:?}", path);
        }
    }
}

/// One after the other, these would be 4 × 16,000² comparisons, half of them with regular expressions.
#[test]
fn as_many_patterns_as_modules_are_no_burden() {
    let names: Vec<String> = (0..16_000).map(|i| format!("model.layers.{i}.self_attn.q_proj")).collect();
    let config = AdapterConfig {
        target_modules: Some(ModuleNames::List(names.clone())),
        exclude_modules: Some(ModuleNames::List(names.iter().map(|name| format!("{name}.other")).collect())),
        modules_to_save: names.iter().map(|name| name.replace('q', "k")).collect(),
        target_parameters: names.iter().map(|name| format!("{name}.weight")).collect(),
        layers_to_transform: Some((0..32_000).collect()),
        rank_pattern: names.iter().zip(1..).map(|(name, rank)| (name.clone(), rank)).collect(),
        alpha_pattern: names.iter().map(|name| (format!("^{}", name.replace('.', r"\.")), 3.0)).collect(),
        ..AdapterConfig::default()
    };
    let matcher = Matcher::new(&config).unwrap();
    for (name, rank) in names.iter().zip(1..) {
        assert_eq!(matcher.matches(name).unwrap(), Match::Targeted);
        assert_eq!(matcher.matches(&name.replace('q', "k")).unwrap(), Match::Excluded);
        assert_eq!((matcher.rank(name).unwrap(), matcher.alpha(name).unwrap()), (rank, 3.0));
        assert!(matcher.targets_parameter(&format!("{name}.weight")));
        assert!(!matcher.saves(name));
    }
}

/// An end of a name is compared with the list only where a name of that length is in it.
#[test]
fn a_name_of_a_hundred_thousand_dots_is_no_burden() {
    let config = AdapterConfig {
        target_modules: Some(ModuleNames::List(vec!["q_proj".into()])),
        rank_pattern: vec![("q_proj".into(), 4)],
        ..AdapterConfig::default()
    };
    let matcher = Matcher::new(&config).unwrap();
    let path = format!("{}q_proj", "a.".repeat(100_000));
    assert_eq!(matcher.matches(&path).unwrap(), Match::Targeted);
    assert_eq!(matcher.rank(&path).unwrap(), 4);
}
