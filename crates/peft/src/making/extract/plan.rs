//! What differs, and which form each difference takes in an adapter: found before anything is decomposed.

use super::pairs::{Names, Pair, hold_same, is_computed_here};
use crate::binding::{ExpertNames, order_of_parameters};
use crate::checkpoint::{
    Checkpoint, LayerKind, is_transposed_model, is_vocabulary, layer_kind_by_name, marks_transposed_experts,
};
use crate::families::class_facts::WeightUse;
use crate::note::Note;
use crate::progress::Progress;
use crate::tensor::float_type;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A difference that becomes A and B.
#[derive(Debug)]
pub(super) enum Part {
    /// The weight of a module.
    Module { path: String, kind: LayerKind, pair: Pair },
    /// A parameter of stacked experts.
    Stacked { name: String, kind: LayerKind, pair: Pair },
    /// A parameter of stacked experts that the files keep apart: of each expert the matrices that stand below each other.
    Apart { name: String, experts: Vec<Vec<Pair>> },
}

impl Part {
    /// Bytes of it in the base.
    pub fn bytes(&self, base: &Checkpoint) -> u64 {
        let bytes = |pair: &Pair| base.tensors()[&pair.base].bytes();
        match self {
            Part::Module { pair, .. } | Part::Stacked { pair, .. } => bytes(pair),
            Part::Apart { experts, .. } => experts.iter().flatten().map(bytes).sum(),
        }
    }
}

/// How a tensor goes along whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With a module or the biases where a key of the configuration can ask for it.
    Asked,
    /// Under its own name in the place of the base's.
    InPlace,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub parts: Vec<Part>,
    /// By the class's name: name in the tuned checkpoint's files, way.
    pub whole: BTreeMap<String, (String, Way)>,
    /// Every tensor by the class's name: name in the tuned checkpoint's files.
    pub tuned_files: BTreeMap<String, String>,
    /// Names of the class of all tensors of the base.
    pub names: BTreeSet<String>,
    /// Names of the class of tensors that the adapter cannot have.
    pub unusable: BTreeSet<String>,
    pub notes: Vec<Note>,
}

/// What is found on the way.
struct Search<'a> {
    base: &'a Checkpoint,
    tuned: &'a Checkpoint,
    base_names: Names,
    plan: Plan,
    computed: Vec<String>,
    /// Name in the file, and why no adapter can have the difference.
    impossible: Vec<(String, String)>,
    /// Names of tensors that the class cuts or stacks, and that differ.
    experts: BTreeSet<String>,
}

impl Plan {
    pub fn new(base: &Checkpoint, tuned: &Checkpoint, skip: bool, progress: &Progress) -> Result<Self> {
        let base_names = Names::of(base, None);
        let tuned_names = Names::of(tuned, base_names.facts.map(|facts| (base, facts)));
        let plan = Plan {
            parts: Vec::new(),
            whole: BTreeMap::new(),
            tuned_files: tuned_names.files.clone(),
            names: base_names.files.keys().cloned().collect(),
            unusable: BTreeSet::new(),
            notes: Vec::new(),
        };
        let mut search = Search {
            base,
            tuned,
            base_names,
            plan,
            computed: Vec::new(),
            impossible: Vec::new(),
            experts: BTreeSet::new(),
        };
        search.compare(&tuned_names, progress)?;
        search.experts_apart()?;
        search.finish(skip)
    }
}

impl Search<'_> {
    fn compare(&mut self, tuned_names: &Names, progress: &Progress) -> Result<()> {
        let (base, tuned) = (self.base, self.tuned);
        // Heads that the tuned model no longer ties: what they were tied to changes for itself.
        let mut parted = BTreeSet::new();
        for (name, file) in &tuned_names.files {
            if self.base_names.files.contains_key(name) {
                continue;
            }
            let info = tuned.info(file)?;
            if is_computed_here(name, tuned, file) {
                self.computed.push(file.clone());
            } else if let Some(source) = self.base_names.tied_source(name, &info.shape, base) {
                let Some(twin) = tuned_names.files.get(source) else { continue };
                let is_copy = tuned.info(twin)?.shape == info.shape
                    && hold_same((tuned, file), (tuned, twin), progress)?;
                if !is_copy {
                    parted.insert(source.to_owned());
                    self.plan.whole.insert(name.clone(), (file.clone(), Way::Asked));
                }
            } else {
                self.give_up(name, file, "the base checkpoint does not have it");
            }
        }
        let files: Vec<(String, String)> =
            self.base_names.files.iter().map(|(name, file)| (name.clone(), file.clone())).collect();
        for (name, file) in files {
            progress.check()?;
            let info = base.info(&file)?;
            let (bytes, shape) = (info.bytes(), &info.shape);
            let other = tuned_names.files.get(&name).or_else(|| {
                // A copy of what the tuned checkpoint ties.
                let source = tuned_names.tied_source(&name, shape, tuned)?;
                tuned_names.files.get(source)
            });
            match other {
                _ if is_computed_here(&name, base, &file) => {
                    let same = match other {
                        Some(other) => {
                            tuned.info(other)?.shape == *shape
                                && hold_same((base, &file), (tuned, other), progress)?
                        }
                        None => false,
                    };
                    if !same {
                        self.computed.push(file);
                    }
                    self.plan.unusable.insert(name);
                }
                None => self.give_up(&name, &file, "the tuned checkpoint does not have it"),
                Some(other) => {
                    let pair = Pair { name, base: file, tuned: other.clone() };
                    if pair.tuned != *tuned_names.files.get(&pair.name).unwrap_or(&pair.name) {
                        self.plan.tuned_files.insert(pair.name.clone(), pair.tuned.clone());
                    }
                    self.compare_pair(pair, &parted, progress)?;
                }
            }
            progress.advance(bytes);
        }
        Ok(())
    }

    fn compare_pair(&mut self, pair: Pair, parted: &BTreeSet<String>, progress: &Progress) -> Result<()> {
        let (one, two) = (self.base.info(&pair.base)?, self.tuned.info(&pair.tuned)?);
        let module = pair.name.rsplit_once('.').map_or("", |(module, _)| module);
        if one.shape != two.shape {
            let is_resized =
                is_vocabulary(module) && one.shape.get(1..) == two.shape.get(1..) && !one.shape.is_empty();
            if !is_resized {
                let reason =
                    format!("has shape {:?} in the base, {:?} in the tuned checkpoint", one.shape, two.shape);
                self.give_up(&pair.name, &pair.base, &reason);
                return Ok(());
            }
            if pair.name.ends_with(".weight") {
                let (base, tuned) = (one.shape[0], two.shape[0]);
                self.plan.notes.push(Note::Vocabulary { tensor: pair.base.clone(), base, tuned });
            }
            let way = if self.base_names.is_tied(&pair.name) { Way::InPlace } else { Way::Asked };
            self.plan.whole.insert(pair.name, (pair.tuned, way));
            return Ok(());
        }
        if hold_same((self.base, &pair.base), (self.tuned, &pair.tuned), progress)? {
            return Ok(());
        }
        if float_type(one.dtype).is_none() || float_type(two.dtype).is_none() {
            let reason = format!("holds {} in the base, {} in the tuned checkpoint", one.dtype, two.dtype);
            self.give_up(&pair.name, &pair.base, &reason);
            return Ok(());
        }
        if self.base_names.facts.is_some_and(|facts| facts.converts(&pair.base)) || is_of_expert(&pair.name) {
            self.experts.insert(pair.name);
            return Ok(());
        }
        if parted.contains(&pair.name) {
            self.plan.whole.insert(pair.name, (pair.tuned, Way::Asked));
        } else if self.base_names.is_tied(&pair.name) {
            self.plan.notes.push(Note::TiedWhole(pair.base));
            self.plan.whole.insert(pair.name, (pair.tuned, Way::InPlace));
        } else {
            self.sort_in(pair);
        }
        Ok(())
    }

    /// Factors where there can be some, and otherwise the whole tensor.
    fn sort_in(&mut self, pair: Pair) {
        let shape = &self.base.tensors()[&pair.base].shape;
        if let Some(kind) = self.stacked_kind(&pair.name, shape) {
            self.plan.parts.push(Part::Stacked { name: pair.name.clone(), kind, pair });
            return;
        }
        match pair
            .name
            .strip_suffix(".weight")
            .and_then(|path| Some((path.to_owned(), self.kind(path, shape)?)))
        {
            Some((path, kind)) => self.plan.parts.push(Part::Module { path, kind, pair }),
            None => {
                self.plan.whole.insert(pair.name, (pair.tuned, Way::Asked));
            }
        }
    }

    /// The kind of layer that PEFT makes for a weight; `None` if it makes none.
    fn kind(&self, path: &str, shape: &[usize]) -> Option<LayerKind> {
        let by_name = layer_kind_by_name(path, shape, is_transposed_model(self.base) == Some(true))?;
        // A kernel that reads one channel: depthwise, or of an input that has no more, where factors save nothing.
        if by_name == LayerKind::Convolution && shape[1] == 1 {
            return None;
        }
        let Some(facts) = self.base_names.facts else { return Some(by_name) };
        match facts.weight_use(path) {
            WeightUse::Whole => None,
            WeightUse::Embedding => Some(LayerKind::Embedding),
            WeightUse::Layer => Some(match by_name {
                LayerKind::Embedding => LayerKind::Linear,
                kind => kind,
            }),
        }
    }

    /// Whether a parameter stacks the experts of a layer, and how PEFT takes it then.
    fn stacked_kind(&self, name: &str, shape: &[usize]) -> Option<LayerKind> {
        let (module, _) = name.rsplit_once('.')?;
        order_of_parameters(name)?;
        let inside = format!("{module}.");
        let own = self.plan.names.range(inside.clone()..).take_while(|other| other.starts_with(&inside));
        // Modules inside would be found below the parameters' wrappers.
        let has_modules = own.clone().any(|other| other[inside.len()..].contains('.'));
        if shape.len() != 3 || shape[0] < 2 || has_modules {
            return None;
        }
        Some(match marks_transposed_experts(self.base) {
            true => LayerKind::TransposedExperts,
            false => LayerKind::Experts,
        })
    }

    /// Experts that the files keep apart become factors of the parameters that the class stacks them in.
    fn experts_apart(&mut self) -> Result<()> {
        let known = ExpertNames::of(self.base);
        while let Some(name) = self.experts.first().cloned() {
            let group = known.as_ref().and_then(|names| self.expert_group(names, &name));
            match group {
                Some((parameter, experts)) => {
                    experts.iter().flatten().for_each(|pair| {
                        self.experts.remove(&pair.name);
                    });
                    self.plan.parts.push(Part::Apart { name: parameter, experts });
                }
                None => {
                    self.experts.remove(&name);
                    self.not_grouped(name);
                }
            }
        }
        Ok(())
    }

    /// The parameter that a tensor is a part of, with all its parts.
    fn expert_group(&self, names: &ExpertNames, name: &str) -> Option<(String, Vec<Vec<Pair>>)> {
        let path = name.strip_suffix(".weight")?;
        let (module, matrix) = path.rsplit_once('.')?;
        let (module, index) = module.rsplit_once('.')?;
        index.parse::<usize>().ok()?;
        let is_of = |(_, matrices): &&(String, Vec<String>)| matrices.iter().any(|one| one == matrix);
        let (parameter, matrices) = names.parameters().iter().find(is_of)?;
        let pair = |expert: usize, matrix: &str| {
            let name = format!("{module}.{expert}.{matrix}.weight");
            let (base, tuned) = (self.base_names.files.get(&name)?, self.plan.tuned_files.get(&name)?);
            Some(Pair { name, base: base.clone(), tuned: tuned.clone() })
        };
        let experts: Vec<Vec<Pair>> =
            (0..).map_while(|expert| matrices.iter().map(|matrix| pair(expert, matrix)).collect()).collect();
        let shape =
            |pair: &Pair| (&self.base.tensors()[&pair.base].shape, &self.tuned.tensors()[&pair.tuned].shape);
        let first = self.base.tensors()[&experts.first()?.first()?.base].shape.clone();
        let is_even = experts.iter().flatten().all(|pair| shape(pair) == (&first, &first));
        (is_even && first.len() == 2).then(|| (format!("{}.{parameter}", names.in_memory(module)), experts))
    }

    /// A tensor of an expert, or one that the class cuts or stacks, in a way that is not known here.
    fn not_grouped(&mut self, name: String) {
        let (base, tuned) = (self.base_names.files[&name].clone(), self.plan.tuned_files[&name].clone());
        match self.base_names.facts.is_some_and(|facts| facts.converts(&base)) {
            true => {
                let reason =
                    "the model's class cuts, stacks or transposes it in a way that is not known here";
                self.give_up(&name, &base, reason);
            }
            false => self.sort_in(Pair { name, base, tuned }),
        }
    }

    fn give_up(&mut self, name: &str, file: &str, reason: &str) {
        self.plan.unusable.insert(name.to_owned());
        self.impossible.push((file.to_owned(), reason.to_owned()));
    }

    fn finish(mut self, skip: bool) -> Result<Plan> {
        if !self.computed.is_empty() {
            self.plan.notes.push(Note::ComputedTensors(self.computed));
        }
        if let Some((name, reason)) = self.impossible.first() {
            if !skip {
                let more = match self.impossible.len() - 1 {
                    0 => String::new(),
                    more => format!("; so it is with {more} more"),
                };
                return Err(Error::tensor(
                    name,
                    format!(
                        "{reason}, which no adapter can have{more}. `--skip` leaves out what no adapter can have"
                    ),
                ));
            }
            let reason = format!("`{name}`: {reason}");
            let tensors = self.impossible.into_iter().map(|(name, _)| name).collect();
            self.plan.notes.push(Note::LeftOut { tensors, reason });
        }
        let class = self.base.model_config().get("architectures").and_then(|list| list.get(0)?.as_str());
        if let Some(class) = class
            && let Some((model, file)) = self.base_names.files.iter().find(|(model, file)| model != file)
        {
            let class = class.to_owned();
            self.plan.notes.push(Note::ClassNames { class, file: file.clone(), model: model.clone() });
        }
        // So that the adapter has the order of the names.
        self.plan.parts.sort_by(|one, two| one.name().cmp(two.name()));
        Ok(self.plan)
    }
}

impl Part {
    /// The module's path, or the parameter's name.
    pub fn name(&self) -> &str {
        match self {
            Part::Module { path, .. } => path,
            Part::Stacked { name, .. } | Part::Apart { name, .. } => name,
        }
    }
}

/// Whether a name is that of a matrix of one expert of many.
fn is_of_expert(name: &str) -> bool {
    let Some((_, inside)) = name.split_once(".experts.") else { return false };
    inside.split('.').next().is_some_and(|index| index.parse::<usize>().is_ok())
}
