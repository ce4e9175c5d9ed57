//! What Stability's own code calls the modules of a U-Net: kohya's files of SDXL have these names.

/// The original name of a module of diffusers' `UNet2DConditionModel` with so many layers a block.
pub(super) fn original(module: &str, layers_per_block: usize) -> Option<String> {
    if let Some((_, original)) = OUTSIDE.iter().find(|(name, _)| *name == module) {
        return Some((*original).to_owned());
    }
    let parts: Vec<&str> = module.split('.').collect();
    let (place, inner) = match *parts.as_slice() {
        ["mid_block", "attentions", "0", ..] => ("middle_block.1".to_owned(), &parts[1..]),
        ["mid_block", "resnets", index, ..] => {
            (format!("middle_block.{}", 2 * index.parse::<usize>().ok()?), &parts[1..])
        }
        [side @ ("down_blocks" | "up_blocks"), block, _, layer, ..] => {
            let (block, layer) = (block.parse::<usize>().ok()?, layer.parse::<usize>().ok()?);
            let down = side == "down_blocks";
            let first = block.checked_mul(layers_per_block.checked_add(1)?)?;
            let name = if down { "input_blocks" } else { "output_blocks" };
            let last = first.checked_add(layers_per_block)?;
            let number = match parts[2] {
                "downsamplers" => last.checked_add(1)?,
                "upsamplers" => last,
                _ if down => first.checked_add(layer)?.checked_add(1)?,
                _ => first.checked_add(layer)?,
            };
            (format!("{name}.{number}"), &parts[2..])
        }
        _ => return None,
    };
    let rest = &inner[2..];
    let of_middle = parts[0] == "mid_block";
    match inner[0] {
        "resnets" => {
            let (_, original) = RESNET.iter().find(|(name, _)| rest == [*name])?;
            Some(if of_middle { format!("{place}.{original}") } else { format!("{place}.0.{original}") })
        }
        "attentions" if of_middle => Some(format!("{place}.{}", rest.join("."))),
        "attentions" => Some(format!("{place}.1.{}", rest.join("."))),
        "downsamplers" => Some(format!("{place}.0.op")),
        // After an attention if the block has one; both are tried.
        "upsamplers" => Some(format!("{place}.2.conv")),
        _ => None,
    }
}

const OUTSIDE: [(&str, &str); 8] = [
    ("conv_in", "input_blocks.0.0"),
    ("conv_out", "out.2"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("class_embedding", "label_emb"),
];

const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

#[cfg(test)]
mod tests {
    use super::original;

    #[test]
    fn modules_have_their_original_names() {
        let cases = [
            ("conv_in", "input_blocks.0.0"),
            ("down_blocks.0.resnets.0.conv1", "input_blocks.1.0.in_layers.2"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
            (
                "down_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q",
                "input_blocks.5.1.transformer_blocks.0.attn1.to_q",
            ),
            ("down_blocks.2.attentions.0.proj_in", "input_blocks.7.1.proj_in"),
            ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
            ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
            (
                "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj",
                "output_blocks.2.1.transformer_blocks.9.ff.net.0.proj",
            ),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
            ("up_blocks.2.resnets.1.conv_shortcut", "output_blocks.7.0.skip_connection"),
        ];
        for (module, expected) in cases {
            assert_eq!(original(module, 2).as_deref(), Some(expected), "{module}");
        }
        for module in ["transformer_blocks.0.attn.to_q", "down_blocks.x.resnets.0.conv1", "mid_block", ""] {
            assert_eq!(original(module, 2), None, "{module}");
        }
    }
}
