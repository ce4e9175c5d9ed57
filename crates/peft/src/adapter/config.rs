//! `adapter_config.json`, both ways.

use crate::error::AtPath;
use crate::files::{CONFIG_FILE, SourceFile, foreign};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Which biases of the base model are trained and saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BiasMode {
    /// None.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// The biases of adapted modules.
    LoraOnly,
}

/// How A and B of a new adapter start, and what that does to the base weights.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Init {
    /// `true`: A uniform in ±1/√in, B zero; embeddings: A zero, B standard normal.
    #[default]
    Default,
    /// `"gaussian"`: A normal with deviation 1/r, B zero.
    Gaussian,
    /// `false`: A and B both uniform, as `nn.Linear` starts: for tests.
    Random,
    /// `"pissa"`: A and B are the principal singular vectors, the base weight keeps the rest.
    Pissa,
    /// `"olora"`: A and B come from the QR decomposition, the base weight keeps the rest.
    Olora,
    /// `"eva"`, `"orthogonal"` or `"mica"`: only the first A and B differ, the base weight does not. Such adapters
    /// load and merge like any other; this crate does not start new ones.
    Other(String),
}

impl Init {
    /// Whether the base weights are left with less than they were.
    pub fn takes_from_base(&self) -> bool {
        matches!(self, Init::Pissa | Init::Olora)
    }

    /// Whether B stays as it starts and only A is trained: MiCA.
    pub fn freezes_b(&self) -> bool {
        matches!(self, Init::Other(name) if name.to_lowercase() == "mica")
    }
}

/// Module names: a regular expression, or names that match exactly or as a suffix after a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleNames {
    /// A regular expression that must match the whole path, or the word `all-linear`.
    Pattern(String),
    /// Names or suffixes.
    List(Vec<String>),
}

/// Tokens that are trained by themselves (`trainable_token_indices`): rows of embeddings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenIndices {
    /// Of the model's input embedding.
    Embedding(Vec<usize>),
    /// Of modules by name or suffix.
    Modules(Vec<(String, Vec<usize>)>),
}

/// Matrices A or B that consist of blocks on their diagonal (`use_bdlora`): the file has the blocks one above the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDiagonal {
    /// Parts of the last names of modules whose A consists of blocks.
    pub a: Vec<String>,
    /// Parts of the last names of modules whose B consists of blocks.
    pub b: Vec<String>,
    /// How many there are in a matrix.
    pub blocks: usize,
}

/// Whether a module's path is a name, or has it after a dot.
pub(crate) fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|outer| outer.is_empty() || outer.ends_with('.'))
}

/// The configuration of a LoRA adapter: the keys of PEFT's `LoraConfig` that this crate honours.
///
/// Keys that only describe the adapter (`base_model_name_or_path`, `task_type`, `peft_version`…) and keys at their
/// neutral value are kept and written back. Any other key is an error that names it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// `r`: the rank of modules that `rank_pattern` does not name.
    pub rank: usize,
    /// `lora_alpha`: α of modules that `alpha_pattern` does not name.
    pub alpha: f64,
    /// `lora_dropout`: probability of dropping an element of the adapter's input in training.
    pub dropout: f32,
    /// `use_rslora`: scale by α/√r instead of α/r (Kalajdzievski, arXiv 2312.03732).
    pub rank_stabilized: bool,
    /// `use_dora`: weight-decomposed adapters (Liu et al., arXiv 2402.09353).
    pub dora: bool,
    /// `lora_bias`: B has a bias.
    pub lora_bias: bool,
    /// `bias`: which biases of the base model the adapter brings along.
    pub bias: BiasMode,
    /// `fan_in_fan_out`: weights are stored \[in, out\], as GPT-2's `Conv1D` does.
    pub fan_in_fan_out: bool,
    /// `init_lora_weights`.
    pub init: Init,
    /// `target_modules`.
    pub target_modules: Option<ModuleNames>,
    /// `exclude_modules`: wins over `target_modules`.
    pub exclude_modules: Option<ModuleNames>,
    /// `target_parameters`: stacked expert weights, by name or suffix.
    pub target_parameters: Vec<String>,
    /// `modules_to_save`: modules that are trained whole, by suffix.
    pub modules_to_save: Vec<String>,
    /// `layers_to_transform`: indices of the layers whose modules are adapted; all if `None`.
    pub layers_to_transform: Option<Vec<u64>>,
    /// `layers_pattern`: names of the module lists that `layers_to_transform` counts in.
    pub layers_pattern: Vec<String>,
    /// `rank_pattern`: ranks by regular expression, the first match counting.
    pub rank_pattern: Vec<(String, usize)>,
    /// `alpha_pattern`: α by regular expression, the first match counting.
    pub alpha_pattern: Vec<(String, f64)>,
    /// `trainable_token_indices`: rows of embeddings that are trained whole.
    pub token_indices: Option<TokenIndices>,
    /// `ensure_weight_tying`: what the model ties is adapted alike.
    pub ensure_weight_tying: bool,
    /// Keys without influence on the numbers, written back as they were.
    pub other: Map<String, Value>,
    /// `use_bdlora`: how to read the weights' file. Nothing in an [`Adapter`](crate::Adapter), which has whole matrices.
    pub block_diagonal: Option<BlockDiagonal>,
}

impl Default for AdapterConfig {
    /// PEFT's defaults: rank 8, α 8, everything else off.
    fn default() -> Self {
        AdapterConfig {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rank_stabilized: false,
            dora: false,
            lora_bias: false,
            bias: BiasMode::None,
            fan_in_fan_out: false,
            init: Init::Default,
            target_modules: None,
            exclude_modules: None,
            target_parameters: Vec::new(),
            modules_to_save: Vec::new(),
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            token_indices: None,
            ensure_weight_tying: false,
            other: Map::new(),
            block_diagonal: None,
        }
    }
}

/// Keys that describe an adapter and change no number.
const DESCRIPTIVE: [&str; 12] = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    // Read by PEFT only when the method that they belong to is on.
    "megatron_core",
    "megatron_config",
    "eva_config",
    // What adapters of these methods start as. PEFT keeps the keys where it has converted an adapter on saving; one that was
    // not converted is refused by its `init_lora_weights`.
    "corda_config",
    "lora_ga_config",
    "loftq_config",
    // Not written back.
    "peft_version",
];

/// Keys that PEFT reads only when the method that they belong to is on, which is not supported, or not at all; and keys of
/// methods that change training only, and whose adapters are plain ones afterwards (VeLoRA, MonteCLoRA).
const WITHOUT_EFFECT: [&str; 4] =
    ["qalora_group_size", "runtime_config", "velora_config", "monteclora_config"];

/// Keys of PEFT 0.11 to 0.21. PEFT 0.10 refuses a file with keys that it does not know, so they are written only where
/// they say something.
const LATER: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "kasa_config",
    "lora_bias",
    "lora_ga_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

impl AdapterConfig {
    /// Reads `adapter_config.json` of an adapter's directory.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, or holds a key that cannot be honoured.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG_FILE);
        let source = SourceFile::open(&path)?;
        foreign::refuse(&source)?;
        let bytes = source.read_all()?;
        Self::from_slice(&bytes).map_err(|error| match error {
            Error::Malformed { reason, .. } => Error::malformed(&path, reason),
            other => other,
        })
    }

    /// Reads the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// It is not a JSON object, or holds a key that cannot be honoured.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(keys)) => Self::from_keys(keys),
            Ok(_) => Err(Error::malformed(Path::new(CONFIG_FILE), "not a JSON object")),
            Err(error) => Err(Error::malformed(Path::new(CONFIG_FILE), error.to_string())),
        }
    }

    fn from_keys(keys: Map<String, Value>) -> Result<Self> {
        let mut config = AdapterConfig::default();
        match keys.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => {
                return Err(Error::config(
                    "peft_type",
                    format!("`{other}` is not supported, only `LORA` is"),
                ));
            }
            None => return Err(Error::config("peft_type", "missing; `LORA` is expected")),
        }
        for (key, value) in keys {
            config.set(&key, value)?;
        }
        config.check()?;
        Ok(config)
    }

    fn set(&mut self, key: &str, value: Value) -> Result<()> {
        let expects = |what: &str| Error::config(key, format!("{what} expected, found {value}"));
        match key {
            "peft_type" => {}
            "r" => self.rank = positive(&value).ok_or_else(|| expects("a positive integer"))?,
            "lora_alpha" => self.alpha = value.as_f64().ok_or_else(|| expects("a number"))?,
            "lora_dropout" => {
                let probability = value.as_f64().map(|p| p as f32).filter(|p| (0.0..1.0).contains(p));
                self.dropout = probability.ok_or_else(|| expects("a number from 0 to below 1"))?;
            }
            "use_rslora" => self.rank_stabilized = boolean(&value).ok_or_else(|| expects("a boolean"))?,
            "use_dora" => self.dora = boolean(&value).ok_or_else(|| expects("a boolean"))?,
            "lora_bias" => self.lora_bias = boolean(&value).ok_or_else(|| expects("a boolean"))?,
            "fan_in_fan_out" => self.fan_in_fan_out = boolean(&value).ok_or_else(|| expects("a boolean"))?,
            "bias" => {
                self.bias = match value.as_str() {
                    Some("none") => BiasMode::None,
                    Some("all") => BiasMode::All,
                    Some("lora_only") => BiasMode::LoraOnly,
                    _ => return Err(expects("`none`, `all` or `lora_only`")),
                }
            }
            "init_lora_weights" => self.init = init(&value)?,
            "target_modules" => self.target_modules = module_names(&value).map_err(|_| expects(NAMES))?,
            "exclude_modules" => self.exclude_modules = module_names(&value).map_err(|_| expects(NAMES))?,
            "target_parameters" => {
                self.target_parameters = strings(&value).ok_or_else(|| expects("a list of names"))?;
            }
            "modules_to_save" => {
                self.modules_to_save = strings(&value).ok_or_else(|| expects("a list of names"))?;
            }
            "layers_to_transform" => {
                self.layers_to_transform = indices(&value).ok_or_else(|| expects("layer indices"))?;
            }
            "layers_pattern" => {
                self.layers_pattern = match &value {
                    Value::String(name) if name.is_empty() => Vec::new(),
                    Value::String(name) => vec![name.clone()],
                    other => strings(other).ok_or_else(|| expects("a name or a list of names"))?,
                }
            }
            "rank_pattern" => {
                self.rank_pattern = pattern(&value, positive)
                    .ok_or_else(|| expects("a map from patterns to positive integers"))?;
            }
            "alpha_pattern" => {
                self.alpha_pattern = pattern(&value, Value::as_f64)
                    .ok_or_else(|| expects("a map from patterns to numbers"))?;
            }
            "trainable_token_indices" => {
                self.token_indices = token_indices(&value).ok_or_else(|| {
                    expects("a list of different token indices, or a map from modules to such lists")
                })?;
            }
            "ensure_weight_tying" => {
                self.ensure_weight_tying = boolean(&value).ok_or_else(|| expects("a boolean"))?;
            }
            "use_bdlora" if !is_neutral(&value) => {
                self.block_diagonal =
                    Some(block_diagonal(&value).ok_or_else(|| {
                        expects("`nblocks`, `target_modules_bd_a` and `target_modules_bd_b`")
                    })?);
            }
            key if WITHOUT_EFFECT.contains(&key) => {}
            key if DESCRIPTIVE.contains(&key) || is_neutral(&value) => {
                self.other.insert(key.to_owned(), value);
            }
            _ => {
                return Err(Error::config(
                    key,
                    format!("not supported, and its value {value} may change the numbers"),
                ));
            }
        }
        Ok(())
    }

    /// Checks what PEFT checks between keys.
    ///
    /// # Errors
    /// Which key does not go with which.
    pub fn check(&self) -> Result<()> {
        if matches!(self.target_modules, Some(ModuleNames::Pattern(_))) {
            for (key, present) in [
                ("layers_to_transform", self.layers_to_transform.is_some()),
                ("layers_pattern", !self.layers_pattern.is_empty()),
            ] {
                if present {
                    return Err(Error::config(key, "cannot be used when `target_modules` is a pattern"));
                }
            }
        }
        if !self.layers_pattern.is_empty() && self.layers_to_transform.is_none() {
            return Err(Error::config("layers_pattern", "needs `layers_to_transform`"));
        }
        if self.lora_bias && self.dora {
            return Err(Error::config("lora_bias", "not possible together with `use_dora`"));
        }
        if self.lora_bias && !matches!(self.init, Init::Default | Init::Random) {
            return Err(Error::config(
                "lora_bias",
                "only possible when `init_lora_weights` is true or false",
            ));
        }
        if !self.alpha.is_finite() {
            return Err(Error::config("lora_alpha", "must be finite"));
        }
        if !self.target_parameters.is_empty() {
            for (key, present) in [
                ("lora_dropout", self.dropout != 0.0),
                ("fan_in_fan_out", self.fan_in_fan_out),
                ("lora_bias", self.lora_bias),
                ("use_dora", self.dora),
            ] {
                if present {
                    return Err(Error::config(key, "does not go with `target_parameters`"));
                }
            }
        }
        Ok(())
    }

    /// The keys of PEFT's file, in its order. Keys that PEFT 0.10 does not know are left out where they say nothing, so that
    /// it loads the file unless the adapter needs a later one.
    pub fn to_json(&self) -> Value {
        let names = |names: &Option<ModuleNames>| match names {
            None => Value::Null,
            Some(ModuleNames::Pattern(pattern)) => json!(pattern),
            Some(ModuleNames::List(list)) => json!(list),
        };
        let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
        let mut keys: Map<String, Value> = self.other.clone();
        let own = json!({
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": number(self.alpha),
            // The shortest decimal that reads back as the same f32.
            "lora_dropout": self.dropout.to_string().parse::<f64>().unwrap_or(f64::from(self.dropout)),
            "use_rslora": self.rank_stabilized,
            "use_dora": self.dora,
            "lora_bias": self.lora_bias,
            "fan_in_fan_out": self.fan_in_fan_out,
            "bias": match self.bias {
                BiasMode::None => "none",
                BiasMode::All => "all",
                BiasMode::LoraOnly => "lora_only",
            },
            "init_lora_weights": match &self.init {
                Init::Default => json!(true),
                Init::Random => json!(false),
                Init::Gaussian => json!("gaussian"),
                Init::Pissa => json!("pissa"),
                Init::Olora => json!("olora"),
                Init::Other(name) => json!(name),
            },
            "target_modules": names(&self.target_modules),
            "exclude_modules": names(&self.exclude_modules),
            "target_parameters": list(&self.target_parameters),
            "modules_to_save": list(&self.modules_to_save),
            "layers_to_transform": self.layers_to_transform,
            "layers_pattern": match self.layers_pattern.as_slice() {
                [one] => json!(one),
                several => list(several),
            },
            "rank_pattern": self.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
            "alpha_pattern":
                self.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect::<Map<_, _>>(),
            "trainable_token_indices": match &self.token_indices {
                None => Value::Null,
                Some(TokenIndices::Embedding(indices)) => json!(indices),
                Some(TokenIndices::Modules(modules)) =>
                    modules.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>().into(),
            },
            "ensure_weight_tying": self.ensure_weight_tying,
            "use_bdlora": self.block_diagonal.as_ref().map(|blocks| json!({
                "nblocks": blocks.blocks,
                "target_modules_bd_a": list(&blocks.a),
                "target_modules_bd_b": list(&blocks.b),
            })),
        });
        if let Value::Object(own) = own {
            keys.extend(own);
        }
        for key in ["base_model_name_or_path", "task_type"] {
            keys.entry(key).or_insert(Value::Null);
        }
        keys.entry("inference_mode").or_insert(Value::Bool(true));
        keys.retain(|key, value| !LATER.contains(&key.as_str()) || !is_neutral(value));
        // That PEFT did not write this file.
        keys.shift_remove("peft_version");
        keys.sort_keys();
        Value::Object(keys)
    }

    /// Writes `adapter_config.json` into a directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(CONFIG_FILE);
        let text = format!("{:#}\n", self.to_json());
        std::fs::write(&path, text).at(&path)
    }

    /// Modules that are trained whole: `modules_to_save`, and the heads that PEFT adds for the task whether the file names them
    /// (as since PEFT 0.14) or not.
    pub fn saved_modules(&self) -> Vec<String> {
        let heads: &[&str] = match self.task_type() {
            Some("SEQ_CLS" | "TOKEN_CLS") => &["classifier", "score"],
            Some("QUESTION_ANS") => &["qa_outputs"],
            _ => &[],
        };
        let mut modules = self.modules_to_save.clone();
        modules.extend(heads.iter().map(|head| (*head).to_owned()));
        modules
    }

    /// The tokens of a module whose rows the adapter replaces; `None` if `trainable_token_indices` does not name it.
    pub fn tokens_of(&self, module: &str) -> Option<&[usize]> {
        match self.token_indices.as_ref()? {
            TokenIndices::Embedding(indices) => Some(indices),
            TokenIndices::Modules(modules) => {
                let named = modules.iter().filter(|(name, _)| is_named(module, name));
                let longest = named.max_by_key(|(name, _)| name.len());
                // The rows of what is tied to it, which PEFT saves along where the vocabulary has another size.
                let only = (modules.len() == 1).then(|| &modules[0]);
                longest.or(only).map(|(_, indices)| indices.as_slice())
            }
        }
    }

    /// `task_type`, for instance `CAUSAL_LM`.
    pub fn task_type(&self) -> Option<&str> {
        self.other.get("task_type").and_then(Value::as_str)
    }
}

const NAMES: &str = "a pattern or a list of names";

/// Values that mean "off" for every key that PEFT has had so far.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn init(value: &Value) -> Result<Init> {
    match value {
        Value::Null | Value::Bool(true) => Ok(Init::Default),
        Value::Bool(false) => Ok(Init::Random),
        Value::String(name) => match name.to_lowercase().as_str() {
            "gaussian" => Ok(Init::Gaussian),
            "pissa" => Ok(Init::Pissa),
            "olora" => Ok(Init::Olora),
            "eva" | "orthogonal" | "mica" => Ok(Init::Other(name.clone())),
            _ => Err(Error::config(
                "init_lora_weights",
                format!(
                    "`{name}` changes the base weights in a way that cannot be repeated; save the adapter with \
                     PEFT's `path_initial_model_for_weight_conversion`, or its base model with it and set this to true"
                ),
            )),
        },
        other => Err(Error::config("init_lora_weights", format!("unknown value {other}"))),
    }
}

/// A list, or a map from names to lists.
fn token_indices(value: &Value) -> Option<Option<TokenIndices>> {
    let list = |value: &Value| -> Option<Vec<usize>> {
        let list: Vec<usize> = value
            .as_array()?
            .iter()
            .map(|index| usize::try_from(index.as_u64()?).ok())
            .collect::<Option<_>>()?;
        let different: BTreeSet<usize> = list.iter().copied().collect();
        (different.len() == list.len()).then_some(list)
    };
    Some(match value {
        Value::Null => None,
        Value::Object(modules) if modules.is_empty() => None,
        Value::Object(modules) => {
            let modules = modules.iter().map(|(name, value)| Some((name.clone(), list(value)?)));
            Some(TokenIndices::Modules(modules.collect::<Option<_>>()?))
        }
        Value::Array(empty) if empty.is_empty() => None,
        value => Some(TokenIndices::Embedding(list(value)?)),
    })
}

fn block_diagonal(value: &Value) -> Option<BlockDiagonal> {
    let names = |key: &str| strings(value.get(key).unwrap_or(&Value::Null));
    let blocks = value.get("nblocks").map_or(Some(1), positive)?;
    Some(BlockDiagonal { a: names("target_modules_bd_a")?, b: names("target_modules_bd_b")?, blocks })
}

fn boolean(value: &Value) -> Option<bool> {
    if value.is_null() { Some(false) } else { value.as_bool() }
}

fn positive(value: &Value) -> Option<usize> {
    value.as_u64().filter(|n| (1..=u64::from(u32::MAX)).contains(n)).map(|n| n as usize)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn module_names(value: &Value) -> Result<Option<ModuleNames>, ()> {
    match value {
        Value::Null => Ok(None),
        Value::String(pattern) => Ok(Some(ModuleNames::Pattern(pattern.clone()))),
        list => Ok(Some(ModuleNames::List(strings(list).ok_or(())?))),
    }
}

fn indices(value: &Value) -> Option<Option<Vec<u64>>> {
    match value {
        Value::Null => Some(None),
        Value::Array(list) if list.is_empty() => Some(None),
        Value::Array(list) => list.iter().map(Value::as_u64).collect::<Option<_>>().map(Some),
        index => Some(Some(vec![index.as_u64()?])),
    }
}

fn pattern<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Object(map) => map.iter().map(|(key, value)| Some((key.clone(), read(value)?))).collect(),
        _ => None,
    }
}

/// Whole numbers without a fraction, as PEFT writes α.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 2f64.powi(53) { json!(value as i64) } else { json!(value) }
}
