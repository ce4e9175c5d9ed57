//! What Black Forest Labs' own code calls the modules of Flux, whose query, key and value are one matrix there.

/// Inside a block of two streams: diffusers' modules, in the order of the original's rows.
const DOUBLE: [(&str, &[&str]); 10] = [
    ("img_attn.qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("img_attn.proj", &["attn.to_out.0"]),
    ("img_mlp.0", &["ff.net.0.proj"]),
    ("img_mlp.2", &["ff.net.2"]),
    ("img_mod.lin", &["norm1.linear"]),
    ("txt_attn.qkv", &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
    ("txt_attn.proj", &["attn.to_add_out"]),
    ("txt_mlp.0", &["ff_context.net.0.proj"]),
    ("txt_mlp.2", &["ff_context.net.2"]),
    ("txt_mod.lin", &["norm1_context.linear"]),
];

/// Inside a block of one stream.
const SINGLE: [(&str, &[&str]); 3] = [
    ("linear1", &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]),
    ("linear2", &["proj_out"]),
    ("modulation.lin", &["norm.linear"]),
];

/// Outside the blocks. `final_layer` is not among them: diffusers has its shift and scale the other way round.
const OUTSIDE: [(&str, &str); 8] = [
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
];

/// The original name of each module that a Flux checkpoint of diffusers has, with its modules. `has` says whether there is one.
pub(super) fn originals(modules: &[String], has: impl Fn(&str) -> bool) -> Vec<(String, Vec<String>)> {
    let blocks = |list: &str| {
        let numbers = modules.iter().filter_map(|module| {
            module.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok()
        });
        numbers.collect::<std::collections::BTreeSet<usize>>()
    };
    let mut found = Vec::new();
    let mut inside = |list: &str, original: &str, table: &[(&str, &[&str])]| {
        for block in blocks(list) {
            for (name, parts) in table {
                let parts = parts.iter().map(|part| format!("{list}.{block}.{part}")).collect();
                found.push((format!("{original}.{block}.{name}"), parts));
            }
        }
    };
    inside("transformer_blocks", "double_blocks", &DOUBLE);
    inside("single_transformer_blocks", "single_blocks", &SINGLE);
    found.extend(
        OUTSIDE.iter().map(|(original, module)| ((*original).to_owned(), vec![(*module).to_owned()])),
    );
    found.retain(|(_, modules): &(String, Vec<String>)| modules.iter().all(|module| has(module)));
    found
}

/// Whether a module's name is an original one.
pub(super) fn is_original(module: &str) -> bool {
    ["double_blocks.", "single_blocks."].iter().any(|prefix| module.starts_with(prefix))
}
