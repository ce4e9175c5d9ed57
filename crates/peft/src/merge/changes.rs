//! Which tensors adapters change, and what each adapter does to them.

use crate::adapter::{Adapter, Weighted};
use crate::binding::Binding;
use crate::checkpoint::LayerKind;
use crate::tensor::Tensor;
use crate::update::Term;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An adapter, with where its layers act.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    pub weighted: Weighted<'a>,
    /// The adapter with a layer for each of the binding's sites.
    pub adapter: Cow<'a, Adapter>,
    pub binding: Cow<'a, Binding>,
    /// Whether the weights still hold what PiSSA or OLoRA cuts off them: in a checkpoint they do, in a model that has the
    /// adapter they do not.
    pub weights_hold_start: bool,
}

impl Bound<'_> {
    /// What the layer at one of the binding's sites adds to its weight.
    pub fn term(&self, site: usize) -> Term<'_> {
        let site = &self.binding.sites[site];
        let init = &self.adapter.config.init;
        Term {
            site,
            layer: &self.adapter.layers[&site.layer],
            weight: self.weighted.weight,
            start: (self.weights_hold_start && init.takes_from_base()).then_some(init),
        }
    }

    /// Whether putting the adapter in leaves every tensor as it is: all A or B are zero, or their factor is.
    pub fn changes_nothing(&self) -> bool {
        let is_zero = |tensor: &Tensor| (0..tensor.len()).all(|at| tensor.at(at) == 0.0);
        let nothing = |site: usize| {
            let term = self.term(site);
            let adds_nothing = term.factor() == 0.0 || is_zero(&term.layer.b) || is_zero(&term.layer.a);
            let bias = term.layer.bias.as_ref();
            term.is_plain() && adds_nothing && bias.is_none_or(|bias| term.factor() == 0.0 || is_zero(bias))
        };
        let binding = &self.binding;
        binding.replaced.is_empty() && binding.rows.is_empty() && (0..binding.sites.len()).all(nothing)
    }
}

/// One layer of one of several adapters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerIndex {
    pub adapter: usize,
    /// Of the adapter's binding.
    pub site: usize,
}

impl LayerIndex {
    pub fn term<'b>(self, bounds: &'b [Bound<'_>]) -> Term<'b> {
        bounds[self.adapter].term(self.site)
    }
}

/// What happens to one tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    /// The tensor that a new one starts as a copy of.
    pub untied_from: Option<String>,
    /// Adapter and key of the tensor that replaces this one.
    pub replaced: Option<(usize, String)>,
    /// Adapter and key of the rows that replace some of this one.
    pub rows: Option<(usize, String)>,
    pub remove: Vec<LayerIndex>,
    pub add: Vec<LayerIndex>,
    pub remove_bias: Vec<LayerIndex>,
    pub add_bias: Vec<LayerIndex>,
}

/// What taking adapters out changes, by tensor.
pub(crate) fn removals(bounds: &[Bound<'_>]) -> BTreeMap<String, Change> {
    let mut changes = BTreeMap::<String, Change>::new();
    for (adapter, bound) in bounds.iter().enumerate() {
        for (site, found) in bound.binding.sites.iter().enumerate() {
            let index = LayerIndex { adapter, site };
            changes.entry(found.weight.clone()).or_default().remove.push(index);
            if let (Some(bias), Some(_)) = (&found.bias, &bound.term(site).layer.bias) {
                changes.entry(bias.clone()).or_default().remove_bias.push(index);
            }
        }
    }
    changes
}

/// Adds what putting adapters in changes.
///
/// # Errors
/// Two adapters of one tensor do not go together.
pub(crate) fn add_additions(changes: &mut BTreeMap<String, Change>, bounds: &[Bound<'_>]) -> Result<()> {
    for (adapter, bound) in bounds.iter().enumerate() {
        for (site, found) in bound.binding.sites.iter().enumerate() {
            let (index, term) = (LayerIndex { adapter, site }, bound.term(site));
            let change = changes.entry(found.weight.clone()).or_default();
            let others_are_plain = || change.add.iter().all(|other| other.term(bounds).is_plain());
            if !(change.add.is_empty() || term.is_plain() && others_are_plain()) {
                return Err(Error::module(
                    &found.layer,
                    "a DoRA, PiSSA or OLoRA adapter of it cannot be merged together with others",
                ));
            }
            change.add.push(index);
            if let (Some(bias), Some(_)) = (&found.bias, &term.layer.bias) {
                changes.entry(bias.clone()).or_default().add_bias.push(index);
            }
        }
        let binding = &bound.binding;
        let replacements = binding.replaced.iter().map(|(name, key)| (name, key, false));
        for (name, key, is_rows) in
            replacements.chain(binding.rows.iter().map(|(name, key)| (name, key, true)))
        {
            let change = changes.entry(name.clone()).or_default();
            let others = change.replaced.iter().chain(&change.rows).map(|(other, _)| *other);
            if let Some(other) = others.into_iter().find(|other| *other != adapter) {
                let (one, two) = (&bounds[other].weighted.name, &bound.weighted.name);
                return Err(Error::tensor(name, format!("both `{one}` and `{two}` replace it")));
            }
            let place = if is_rows { &mut change.rows } else { &mut change.replaced };
            *place = Some((adapter, key.clone()));
        }
    }
    changes.iter().try_for_each(|(name, change)| check_sizes(name, change, bounds))
}

/// Checks that layers of other adapters fit a tensor that is replaced by one of another size, with more tokens for instance.
fn check_sizes(name: &str, change: &Change, bounds: &[Bound<'_>]) -> Result<()> {
    let Some((adapter, key)) = &change.replaced else { return Ok(()) };
    let shape = bounds[*adapter].adapter.replaced[key].shape();
    let elements: usize = shape.iter().product();
    let unfit = |index: &&LayerIndex| {
        let term = index.term(bounds);
        let (a, b) = (term.layer.a.shape(), term.layer.b.shape());
        let is_whole = !matches!(term.site.kind, LayerKind::Experts | LayerKind::TransposedExperts);
        is_whole && a[1..].iter().product::<usize>() * b[0] != elements
    };
    match change.add.iter().find(unfit) {
        Some(index) => Err(Error::tensor(
            name,
            format!(
                "`{}` replaces it by one of shape {shape:?}, which the layer of `{}` does not fit",
                bounds[*adapter].weighted.name, bounds[index.adapter].weighted.name
            ),
        )),
        None => Ok(()),
    }
}
