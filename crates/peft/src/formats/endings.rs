//! How the names of tensors end that belong to one module's adapter, in kohya's and diffusers' files.

/// Which tensor of a module one of the file's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// A: \[r, in, …kernel\].
    Down,
    /// B: \[out, r, …1\].
    Up,
    /// The kernel between both, \[r, r, …kernel\], where a convolution is taken apart twice (Tucker).
    Middle,
    /// α.
    Alpha,
    /// DoRA's magnitudes.
    Magnitude,
}

/// Longer endings before those that they end with.
const ENDINGS: [(&str, Which); 18] = [
    (".lora_down.weight", Which::Down),
    (".lora_up.weight", Which::Up),
    (".lora_mid.weight", Which::Middle),
    (".lora_linear_layer.down.weight", Which::Down),
    (".lora_linear_layer.up.weight", Which::Up),
    (".lora_A.default.weight", Which::Down),
    (".lora_B.default.weight", Which::Up),
    (".lora_A.weight", Which::Down),
    (".lora_B.weight", Which::Up),
    (".lora.down.weight", Which::Down),
    (".lora.up.weight", Which::Up),
    ("_lora.down.weight", Which::Down),
    ("_lora.up.weight", Which::Up),
    (".lora_magnitude_vector.weight", Which::Magnitude),
    (".lora_magnitude_vector", Which::Magnitude),
    (".dora_scale", Which::Magnitude),
    (".lora.alpha", Which::Alpha),
    (".alpha", Which::Alpha),
];

/// What other methods call their tensors (LoHa, LoKr, OFT, BOFT, (IA)³, whole differences).
const OTHER_METHODS: [&str; 11] = [
    ".hada_w1",
    ".hada_w2",
    ".lokr_w1",
    ".lokr_w2",
    ".lokr_t2",
    ".oft_blocks",
    ".oft_diag",
    ".boft_",
    ".diff",
    ".diff_b",
    ".on_input",
];

/// What kohya puts before a module's path, whose dots become underscores.
const FLATTENED: [&str; 3] = ["lora_unet_", "lora_te", "lora_transformer_"];

/// The module, and which of its tensors this is; names of old attention processors as today's modules.
pub(super) fn split(name: &str) -> Option<(String, Which)> {
    let (ending, which) = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending))?;
    let module = name.strip_suffix(ending)?;
    let module = match ending.starts_with("_lora") {
        true => processor_module(module),
        false => module.replace(".processor.", "."),
    };
    (!module.is_empty()).then_some((module, *which))
}

/// `attn1.processor.to_out` stands for `attn1.to_out.0`, and `self_attn.to_q` of a text encoder for `self_attn.q_proj`.
fn processor_module(module: &str) -> String {
    let module = module.replace(".processor.", ".");
    let Some((parent, last)) = module.rsplit_once('.') else { return module };
    let of_text = parent.ends_with("self_attn");
    let last = match last {
        "to_q" if of_text => "q_proj",
        "to_k" if of_text => "k_proj",
        "to_v" if of_text => "v_proj",
        "to_out" if of_text => "out_proj",
        "to_out" => "to_out.0",
        other => other,
    };
    format!("{parent}.{last}")
}

/// Whether a tensor's name is that of A.
pub(super) fn is_dotted_factor(name: &str) -> bool {
    split(name).is_some_and(|(_, which)| which == Which::Down)
}

/// Whether a module's path has lost its dots.
pub(super) fn is_flattened(name: &str) -> bool {
    FLATTENED.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a tensor belongs to another method than LoRA.
pub(super) fn is_other_method(name: &str) -> bool {
    OTHER_METHODS.iter().any(|part| {
        name.ends_with(part)
            || name.contains(&format!("{part}_"))
            || (part.ends_with('_') && name.contains(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_module_and_tensor() {
        let cases = [
            ("lora_unet_mid_block.lora_down.weight", Some(("lora_unet_mid_block", Which::Down))),
            ("unet.a.to_q.lora.up.weight", Some(("unet.a.to_q", Which::Up))),
            ("unet.a.attn1.processor.to_q_lora.down.weight", Some(("unet.a.attn1.to_q", Which::Down))),
            ("unet.a.attn1.processor.to_out_lora.up.weight", Some(("unet.a.attn1.to_out.0", Which::Up))),
            (
                "text_encoder.l.0.self_attn.to_out_lora.up.weight",
                Some(("text_encoder.l.0.self_attn.out_proj", Which::Up)),
            ),
            (
                "text_encoder.l.0.self_attn.q_proj.lora_linear_layer.down.weight",
                Some(("text_encoder.l.0.self_attn.q_proj", Which::Down)),
            ),
            ("transformer.x.lora_A.weight", Some(("transformer.x", Which::Down))),
            ("a.b.alpha", Some(("a.b", Which::Alpha))),
            ("a.dora_scale", Some(("a", Which::Magnitude))),
            ("a.weight", None),
            (".alpha", None),
        ];
        for (name, expected) in cases {
            let expected = expected.map(|(module, which)| (module.to_owned(), which));
            assert_eq!(split(name), expected, "{name}");
        }
    }

    #[test]
    fn other_methods_are_known_by_their_tensors() {
        for name in
            ["a.hada_w1_a", "a.lokr_w1", "a.lokr_w2_b", "a.oft_blocks", "a.diff", "a.diff_b", "a.boft_x"]
        {
            assert!(is_other_method(name), "{name}");
        }
        for name in
            ["a.lora_down.weight", "unet.diffusion.alpha", "a.different", "base_model.model.a.lora_A.weight"]
        {
            assert!(!is_other_method(name), "{name}");
        }
    }
}
