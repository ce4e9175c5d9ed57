//! Which modules an adapter's configuration means, by PEFT's own rules (`check_target_module_exists`, 0.21).

use super::config::{AdapterConfig, ModuleNames};
use super::pattern::{Compiler, Pattern, TIME_LIMIT};
use super::plain_patterns::{Extent, Patterns};
use super::suffixes::Suffixes;
use crate::Result;
use std::collections::HashSet;
use std::sync::Arc;

/// The word that stands for every linear layer but the output head.
pub const ALL_LINEAR: &str = "all-linear";

/// What follows the name of a list of layers.
const LAYER_INDEX: &str = r"\.(?<layer_index>\d+)\.";

/// What a configuration says about a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is adapted.
    Targeted,
    /// It would be, but `exclude_modules` or `modules_to_save` names it.
    Excluded,
    /// It is left alone.
    Unmatched,
}

/// A configuration's patterns, compiled.
///
/// Patterns are Python regular expressions as `fancy-regex` reads them: look-around, back references and named groups
/// work. Python's conditional groups (`(?(1)…)`), and patterns that backtrack without end, are refused. All of them
/// together may take 20 seconds; that is an error too. Names and patterns without operators are looked up by hash and
/// take next to nothing, however many there are.
#[derive(Debug)]
pub struct Matcher {
    targets: Targets,
    excluded: Option<Names>,
    saved: Patterns,
    saved_suffixes: Suffixes,
    parameters: Suffixes,
    layers: Option<HashSet<u64>>,
    layer_patterns: Vec<Arc<Pattern>>,
    rank_patterns: Patterns,
    ranks: Vec<usize>,
    alpha_patterns: Patterns,
    alphas: Vec<f64>,
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
}

#[derive(Debug)]
enum Targets {
    None,
    AllLinear,
    Names(Names),
}

#[derive(Debug)]
enum Names {
    Pattern(Arc<Pattern>),
    List(Suffixes),
}

impl Names {
    fn new(key: &'static str, names: &ModuleNames, compiler: &mut Compiler) -> Result<Self> {
        Ok(match names {
            ModuleNames::Pattern(text) => Names::Pattern(compiler.compile(key, r"\A(?:", text, r")\z")?),
            ModuleNames::List(list) => Names::List(Suffixes::new(list)),
        })
    }

    fn matches(&self, path: &str) -> Result<bool> {
        match self {
            Names::Pattern(pattern) => pattern.is_match(path),
            Names::List(list) => Ok(list.contain(path) || list.follow_a_dot(path)),
        }
    }
}

impl Matcher {
    /// Compiles the patterns of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the key whose pattern cannot be compiled.
    pub fn new(config: &AdapterConfig) -> Result<Self> {
        let compiler = &mut Compiler::new(TIME_LIMIT);
        let targets = match &config.target_modules {
            None => Targets::None,
            Some(ModuleNames::Pattern(word)) if word.to_lowercase() == ALL_LINEAR => Targets::AllLinear,
            Some(names) => Targets::Names(Names::new("target_modules", names, compiler)?),
        };
        let excluded = match &config.exclude_modules {
            Some(names) => Some(Names::new("exclude_modules", names, compiler)?),
            None => None,
        };
        let mut layer = |before: &str, name: &str, after: &str| {
            compiler.compile("layers_pattern", before, name, &format!("{after}{LAYER_INDEX}"))
        };
        let layer_patterns = if config.layers_pattern.is_empty() {
            vec![layer(r"\A.*?\.", "[^.]*", "")?]
        } else {
            let layers = config.layers_pattern.iter().map(|name| layer(r"\A(?:|.*?\.)(?:", name, ")"));
            layers.collect::<Result<_>>()?
        };
        let mut first = |key, extent, texts: &mut dyn Iterator<Item = &String>| {
            Patterns::new(key, extent, texts, compiler)
        };
        let saved = config.saved_modules();
        let ranks = &mut config.rank_pattern.iter().map(|(text, _)| text);
        let alphas = &mut config.alpha_pattern.iter().map(|(text, _)| text);
        Ok(Matcher {
            targets,
            excluded,
            saved: first("modules_to_save", Extent::Components, &mut saved.iter())?,
            saved_suffixes: Suffixes::new(&saved),
            parameters: Suffixes::new(&config.target_parameters),
            layers: config.layers_to_transform.as_ref().map(|layers| layers.iter().copied().collect()),
            layer_patterns,
            rank_patterns: first("rank_pattern", Extent::ToTheEnd, ranks)?,
            ranks: config.rank_pattern.iter().map(|(_, rank)| *rank).collect(),
            alpha_patterns: first("alpha_pattern", Extent::ToTheEnd, alphas)?,
            alphas: config.alpha_pattern.iter().map(|(_, alpha)| *alpha).collect(),
            rank: config.rank,
            alpha: config.alpha,
            rank_stabilized: config.rank_stabilized,
        })
    }

    /// Whether `target_modules` is `all-linear`: every layer that [`matches`](Self::matches) is then to be checked
    /// by the caller to be linear and not the output head.
    pub fn is_all_linear(&self) -> bool {
        matches!(self.targets, Targets::AllLinear)
    }

    /// What the configuration says about the module at a dotted path.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a pattern backtracks without end, or takes too long.
    pub fn matches(&self, path: &str) -> Result<Match> {
        if let Some(excluded) = &self.excluded
            && excluded.matches(path)?
        {
            return Ok(Match::Excluded);
        }
        if self.saved.first(path)?.is_some() {
            return Ok(Match::Excluded);
        }
        let targeted = match &self.targets {
            Targets::None => false,
            Targets::AllLinear => true,
            Targets::Names(names @ Names::Pattern(_)) => names.matches(path)?,
            Targets::Names(Names::List(list)) => {
                // A module that is named in full is adapted whatever its layer.
                list.contain(path) || (list.follow_a_dot(path) && self.layer_matches(path)?)
            }
        };
        Ok(if targeted { Match::Targeted } else { Match::Unmatched })
    }

    fn layer_matches(&self, path: &str) -> Result<bool> {
        let Some(layers) = &self.layers else {
            return Ok(true);
        };
        for pattern in &self.layer_patterns {
            if let Some(captures) = pattern.captures(path)? {
                let index = captures.name("layer_index").and_then(|index| index.as_str().parse().ok());
                return Ok(index.is_some_and(|index: u64| layers.contains(&index)));
            }
        }
        Ok(false)
    }

    /// Whether `target_parameters` names this parameter.
    pub fn targets_parameter(&self, name: &str) -> bool {
        self.parameters.contain(name) || self.parameters.follow_a_dot(name)
    }

    /// Whether this is one of the [saved modules](AdapterConfig::saved_modules): by any suffix, as PEFT does.
    pub fn saves(&self, path: &str) -> bool {
        self.saved_suffixes.end(path)
    }

    /// The rank r of a module.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a pattern backtracks without end, or takes too long.
    pub fn rank(&self, path: &str) -> Result<usize> {
        Ok(self.rank_patterns.first(path)?.map_or(self.rank, |place| self.ranks[place]))
    }

    /// α of a module.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a pattern backtracks without end, or takes too long.
    pub fn alpha(&self, path: &str) -> Result<f64> {
        Ok(self.alpha_patterns.first(path)?.map_or(self.alpha, |place| self.alphas[place]))
    }

    /// The factor on B·A of a module: α/r, or α/√r if rank-stabilized.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a pattern backtracks without end, or takes too long.
    pub fn scale(&self, path: &str) -> Result<f64> {
        let (alpha, rank) = (self.alpha(path)?, self.rank(path)? as f64);
        Ok(alpha / if self.rank_stabilized { rank.sqrt() } else { rank })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn config(text: &str) -> AdapterConfig {
        AdapterConfig::from_slice(format!(r#"{{"peft_type": "LORA", {text}}}"#).as_bytes()).unwrap()
    }

    fn targeted(text: &str, path: &str) -> Match {
        Matcher::new(&config(text)).unwrap().matches(path).unwrap()
    }

    #[test]
    fn lists_match_whole_names_and_suffixes_after_a_dot() {
        let list = r#""target_modules": ["q_proj", "model.head"]"#;
        assert_eq!(targeted(list, "q_proj"), Match::Targeted);
        assert_eq!(targeted(list, "layers.0.q_proj"), Match::Targeted);
        assert_eq!(targeted(list, "layers.0.xq_proj"), Match::Unmatched);
        assert_eq!(targeted(list, "layers.0.q_proj.inner"), Match::Unmatched);
        assert_eq!(targeted(list, "model.head"), Match::Targeted);
    }

    #[test]
    fn patterns_match_the_whole_path() {
        let pattern = r#""target_modules": ".*\\.(q|v)_proj|head""#;
        assert_eq!(targeted(pattern, "layers.0.q_proj"), Match::Targeted);
        assert_eq!(targeted(pattern, "layers.0.q_proj2"), Match::Unmatched);
        assert_eq!(targeted(pattern, "head"), Match::Targeted);
        assert_eq!(targeted(pattern, "model.head"), Match::Unmatched);
        // Python's look-around.
        let ahead = r#""target_modules": "(?!.*decoder).*q_proj""#;
        assert_eq!(targeted(ahead, "encoder.q_proj"), Match::Targeted);
        assert_eq!(targeted(ahead, "decoder.q_proj"), Match::Unmatched);
    }

    #[test]
    fn excluded_and_saved_modules_win() {
        let text = r#""target_modules": ["q_proj", "head"], "exclude_modules": ["1.q_proj"], "modules_to_save": ["head"]"#;
        assert_eq!(targeted(text, "layers.0.q_proj"), Match::Targeted);
        assert_eq!(targeted(text, "layers.1.q_proj"), Match::Excluded);
        assert_eq!(targeted(text, "head"), Match::Excluded);
        let pattern = r#""target_modules": ["q_proj"], "exclude_modules": ".*layers\\.[12]\\..*""#;
        assert_eq!(targeted(pattern, "layers.2.q_proj"), Match::Excluded);
        assert_eq!(targeted(pattern, "layers.3.q_proj"), Match::Targeted);
    }

    #[test]
    fn layers_are_counted_at_the_first_number() {
        let text = r#""target_modules": ["up"], "layers_to_transform": [1]"#;
        assert_eq!(targeted(text, "model.layers.1.up"), Match::Targeted);
        assert_eq!(targeted(text, "model.layers.0.up"), Match::Unmatched);
        assert_eq!(targeted(text, "model.layers.0.experts.1.up"), Match::Unmatched);
        assert_eq!(targeted(text, "model.layers.1.experts.0.up"), Match::Targeted);
        let named = r#""target_modules": ["up"], "layers_to_transform": 1, "layers_pattern": "h""#;
        assert_eq!(targeted(named, "h.1.up"), Match::Targeted);
        assert_eq!(targeted(named, "model.h.1.up"), Match::Targeted);
        assert_eq!(targeted(named, "model.layers.1.up"), Match::Unmatched);
    }

    #[test]
    fn the_first_pattern_counts() {
        let text = r#""r": 4, "lora_alpha": 8, "rank_pattern": {"1.q": 2, "q": 16}, "alpha_pattern": {"^model.layers.0.q": 3}"#;
        let matcher = Matcher::new(&config(text)).unwrap();
        assert_eq!(matcher.rank("model.layers.1.q").unwrap(), 2);
        assert_eq!(matcher.rank("model.layers.0.q").unwrap(), 16);
        assert_eq!(matcher.rank("model.layers.0.q2").unwrap(), 4);
        assert_eq!(matcher.scale("model.layers.1.q").unwrap(), 4.0);
        assert_eq!(matcher.scale("model.layers.0.q").unwrap(), 3.0 / 16.0);
        let stabilized = Matcher::new(&config(r#""r": 16, "lora_alpha": 8, "use_rslora": true"#)).unwrap();
        assert_eq!(stabilized.scale("q").unwrap(), 2.0);
    }

    #[test]
    fn bad_patterns_are_named() {
        let broken = config(r#""target_modules": "(""#);
        assert!(matches!(Matcher::new(&broken), Err(Error::Config { key, .. }) if key == "target_modules"));
        let unbalanced = config(r#""target_modules": "a)(b""#);
        assert!(Matcher::new(&unbalanced).is_err());
        let endless = config(r#""target_modules": "(a|aa)+\\1b""#);
        let path = "a".repeat(40);
        assert!(Matcher::new(&endless).unwrap().matches(&path).is_err());
    }
}
