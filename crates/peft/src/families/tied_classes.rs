//! Printed by `tests/golden/generate_families.py` from transformers 5.24.0.

/// Classes of one model type that tie the same weights.
pub(super) struct TiedClasses {
    pub model_type: &'static str,
    /// Whether they are tied where `config.json` does not say.
    pub by_default: bool,
    pub classes: &'static [&'static str],
    /// What is tied, and to what: names of parameters of the class.
    pub ties: &'static [(&'static str, &'static str)],
}

#[rustfmt::skip]
pub(super) static TIED: [TiedClasses; 360] = [
    TiedClasses { model_type: "afmoe", by_default: false, classes: &["AfmoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "albert", by_default: true, classes: &["AlbertForMaskedLM",
        "AlbertForPreTraining"], ties: &[("predictions.decoder.weight",
        "albert.embeddings.word_embeddings.weight"), ("predictions.decoder.bias", "predictions.bias")] },
    TiedClasses { model_type: "apertus", by_default: false, classes: &["ApertusForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "apertus1p5", by_default: false, classes:
        &["Apertus1p5ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "apertus1p5_text", by_default: false, classes: &["Apertus1p5TextForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "arcee", by_default: false, classes: &["ArceeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "aria", by_default: false, classes: &["AriaForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "aria_text", by_default: false, classes: &["AriaTextForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "axk1", by_default: false, classes: &["AXK1ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "axk2", by_default: false, classes: &["AXK2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "aya_vision", by_default: true, classes: &["AyaVisionForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "bamba", by_default: false, classes: &["BambaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "bart", by_default: true, classes: &["BartModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "bart", by_default: true, classes: &["BartForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "bart", by_default: true, classes: &["BartForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "beam", by_default: false, classes: &["BeamForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "bert", by_default: true, classes: &["BertForMaskedLM", "BertForPreTraining",
        "BertLMHeadModel"], ties: &[("cls.predictions.decoder.weight",
        "bert.embeddings.word_embeddings.weight"), ("cls.predictions.decoder.bias", "cls.predictions.bias")]
        },
    TiedClasses { model_type: "bert-generation", by_default: true, classes: &["BertGenerationDecoder"], ties:
        &[("lm_head.decoder.weight", "bert.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias",
        "lm_head.bias")] },
    TiedClasses { model_type: "big_bird", by_default: true, classes: &["BigBirdForCausalLM",
        "BigBirdForMaskedLM", "BigBirdForPreTraining"], ties: &[("cls.predictions.decoder.bias",
        "cls.predictions.bias"), ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")]
        },
    TiedClasses { model_type: "bigbird_pegasus", by_default: true, classes: &["BigBirdPegasusModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "bigbird_pegasus", by_default: true, classes:
        &["BigBirdPegasusForConditionalGeneration"], ties: &[("lm_head.weight", "model.shared.weight"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"), ("model.encoder.embed_tokens.weight",
        "model.shared.weight")] },
    TiedClasses { model_type: "biogpt", by_default: true, classes: &["BioGptForCausalLM"], ties:
        &[("output_projection.weight", "biogpt.embed_tokens.weight")] },
    TiedClasses { model_type: "bitnet", by_default: false, classes: &["BitNetForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "blenderbot", by_default: true, classes: &["BlenderbotModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "blenderbot", by_default: true, classes: &["BlenderbotForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "blenderbot", by_default: true, classes:
        &["BlenderbotForConditionalGeneration"], ties: &[("lm_head.weight", "model.shared.weight"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"), ("model.encoder.embed_tokens.weight",
        "model.shared.weight")] },
    TiedClasses { model_type: "blenderbot-small", by_default: true, classes: &["BlenderbotSmallModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "blenderbot-small", by_default: true, classes: &["BlenderbotSmallForCausalLM"],
        ties: &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "blenderbot-small", by_default: true, classes:
        &["BlenderbotSmallForConditionalGeneration"], ties: &[("lm_head.weight", "model.shared.weight"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"), ("model.encoder.embed_tokens.weight",
        "model.shared.weight")] },
    TiedClasses { model_type: "blip", by_default: true, classes: &["BlipForConditionalGeneration"], ties:
        &[("text_decoder.cls.predictions.decoder.weight",
        "text_decoder.bert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "blip_text_model", by_default: true, classes: &["BlipTextLMHeadModel"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "bert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "bloom", by_default: true, classes: &["BloomForCausalLM"], ties:
        &[("lm_head.weight", "transformer.word_embeddings.weight")] },
    TiedClasses { model_type: "blt", by_default: false, classes: &["BltForCausalLM"], ties:
        &[("lm_head.weight", "model.local_encoder.embed_tokens.weight")] },
    TiedClasses { model_type: "bridgetower", by_default: false, classes: &["BridgeTowerForMaskedLM"], ties:
        &[("mlm_score.decoder.weight", "bridgetower.text_model.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "camembert", by_default: true, classes: &["CamembertForCausalLM",
        "CamembertForMaskedLM"], ties: &[("lm_head.decoder.weight",
        "roberta.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "canary", by_default: true, classes: &["CanaryForConditionalGeneration"], ties:
        &[("proj_out.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "chameleon", by_default: false, classes: &["ChameleonForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "codegen", by_default: false, classes: &["CodeGenForCausalLM"], ties:
        &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "cohere", by_default: true, classes: &["CohereForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "cohere2", by_default: true, classes: &["Cohere2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "cohere2_moe", by_default: true, classes: &["Cohere2MoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "cohere2_vision", by_default: true, classes:
        &["Cohere2VisionForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "cohere_asr", by_default: false, classes:
        &["CohereAsrForConditionalGeneration"], ties: &[("proj_out.weight",
        "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "cohere_compass", by_default: false, classes:
        &["CohereCompassForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "cohere_compass_text", by_default: true, classes: &["CohereCompassForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "convbert", by_default: true, classes: &["ConvBertForMaskedLM"], ties:
        &[("generator_lm_head.weight", "convbert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "cosmos3_omni", by_default: false, classes:
        &["Cosmos3OmniForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "ctrl", by_default: true, classes: &["CTRLLMHeadModel"], ties:
        &[("lm_head.weight", "transformer.w.weight")] },
    TiedClasses { model_type: "cwm", by_default: false, classes: &["CwmForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "data2vec-text", by_default: true, classes: &["Data2VecTextForCausalLM",
        "Data2VecTextForMaskedLM"], ties: &[("lm_head.decoder.weight",
        "data2vec_text.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "dbrx", by_default: false, classes: &["DbrxForCausalLM"], ties:
        &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "deberta", by_default: true, classes: &["DebertaForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "deberta.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "deberta-v2", by_default: true, classes: &["DebertaV2ForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "deberta.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "deepseek_ocr2", by_default: false, classes:
        &["DeepseekOcr2ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "deepseek_v2", by_default: false, classes: &["DeepseekV2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "deepseek_v3", by_default: false, classes: &["DeepseekV3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "deepseek_v32", by_default: false, classes: &["DeepseekV32ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "deepseek_v4", by_default: false, classes: &["DeepseekV4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "deepseek_vl", by_default: true, classes:
        &["DeepseekVLForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "deepseek_vl_hybrid", by_default: true, classes:
        &["DeepseekVLHybridForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "diffllama", by_default: false, classes: &["DiffLlamaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "diffusion_gemma", by_default: true, classes: &["DiffusionGemmaModel"], ties:
        &[("encoder.language_model.norm.weight", "decoder.norm.weight"),
        ("encoder.language_model.embed_tokens.weight", "decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "diffusion_gemma", by_default: true, classes:
        &["DiffusionGemmaForBlockDiffusion"], ties: &[("lm_head.weight", "model.decoder.embed_tokens.weight")]
        },
    TiedClasses { model_type: "distilbert", by_default: true, classes: &["DistilBertForMaskedLM"], ties:
        &[("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "doge", by_default: false, classes: &["DogeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "dory", by_default: false, classes: &["DoryForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "dots1", by_default: false, classes: &["Dots1ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "dots3_note", by_default: false, classes:
        &["Dots3NoteForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "dots3_note_text", by_default: false, classes: &["Dots3NoteForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "electra", by_default: true, classes: &["ElectraForCausalLM",
        "ElectraForMaskedLM"], ties: &[("generator_lm_head.weight",
        "electra.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "emu3", by_default: false, classes: &["Emu3ForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "emu3_text_model", by_default: false, classes: &["Emu3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "ernie", by_default: true, classes: &["ErnieForMaskedLM",
        "ErnieForPreTraining"], ties: &[("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("cls.predictions.decoder.weight", "ernie.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "ernie", by_default: true, classes: &["ErnieForCausalLM"], ties:
        &[("cls.predictions.decoder.weight", "ernie.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias")] },
    TiedClasses { model_type: "ernie4_5", by_default: true, classes: &["Ernie4_5ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "ernie4_5_moe", by_default: true, classes: &["Ernie4_5_MoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "ernie4_5_vl_moe", by_default: true, classes:
        &["Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VL_MoeForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "esm", by_default: true, classes: &["EsmForMaskedLM"], ties:
        &[("lm_head.decoder.weight", "esm.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "eurobert", by_default: false, classes: &["EuroBertForMaskedLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "exaone4", by_default: false, classes: &["Exaone4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "exaone4_5", by_default: false, classes:
        &["Exaone4_5_ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "exaone_moe", by_default: false, classes: &["ExaoneMoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "falcon", by_default: true, classes: &["FalconForCausalLM"], ties:
        &[("lm_head.weight", "transformer.word_embeddings.weight")] },
    TiedClasses { model_type: "falcon_h1", by_default: false, classes: &["FalconH1ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "falcon_mamba", by_default: true, classes: &["FalconMambaForCausalLM"], ties:
        &[("lm_head.weight", "backbone.embeddings.weight")] },
    TiedClasses { model_type: "fast_vlm", by_default: false, classes: &["FastVlmForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "flaubert", by_default: true, classes: &["FlaubertWithLMHeadModel"], ties:
        &[("pred_layer.proj.weight", "transformer.embeddings.weight")] },
    TiedClasses { model_type: "flava", by_default: true, classes: &["FlavaForPreTraining"], ties:
        &[("mmm_text_head.bias", "mmm_text_head.decoder.bias"), ("mim_head.bias", "mim_head.decoder.bias"),
        ("mlm_head.bias", "mlm_head.decoder.bias"), ("mmm_image_head.bias", "mmm_image_head.decoder.bias")] },
    TiedClasses { model_type: "flex_olmo", by_default: false, classes: &["FlexOlmoForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "flint", by_default: false, classes: &["FlintForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "florence2", by_default: true, classes: &["Florence2ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.shared.weight"),
        ("model.language_model.decoder.embed_tokens.weight", "model.language_model.shared.weight"),
        ("model.language_model.encoder.embed_tokens.weight", "model.language_model.shared.weight")] },
    TiedClasses { model_type: "fnet", by_default: true, classes: &["FNetForMaskedLM", "FNetForPreTraining"],
        ties: &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "fnet.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "fsmt", by_default: false, classes: &["FSMTModel"], ties:
        &[("decoder.embed_tokens.weight", "encoder.embed_tokens.weight"), ("decoder.output_projection.weight",
        "encoder.embed_tokens.weight")] },
    TiedClasses { model_type: "fsmt", by_default: false, classes: &["FSMTForConditionalGeneration"], ties:
        &[("model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight"),
        ("model.decoder.output_projection.weight", "model.encoder.embed_tokens.weight")] },
    TiedClasses { model_type: "fun_asr_nano", by_default: true, classes:
        &["FunAsrNanoForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "funnel", by_default: true, classes: &["FunnelForMaskedLM"], ties:
        &[("lm_head.weight", "funnel.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "fuyu", by_default: false, classes: &["FuyuForCausalLM"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma", by_default: true, classes: &["GemmaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma2", by_default: true, classes: &["Gemma2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma3", by_default: true, classes: &["Gemma3ForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma3_text", by_default: true, classes: &["Gemma3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma3n", by_default: true, classes: &["Gemma3nForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma3n_text", by_default: true, classes: &["Gemma3nForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma4", by_default: true, classes: &["Gemma4ForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma4_assistant", by_default: true, classes: &["Gemma4AssistantForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma4_text", by_default: true, classes: &["Gemma4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma4_unified", by_default: true, classes:
        &["Gemma4UnifiedForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma4_unified_assistant", by_default: true, classes:
        &["Gemma4UnifiedAssistantForCausalLM"], ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gemma4_unified_text", by_default: true, classes: &["Gemma4UnifiedForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "git", by_default: false, classes: &["GitForCausalLM"], ties:
        &[("output.weight", "git.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "glm", by_default: false, classes: &["GlmForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm4", by_default: false, classes: &["Glm4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm46v", by_default: false, classes: &["Glm46VForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm4_moe", by_default: false, classes: &["Glm4MoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm4_moe_lite", by_default: false, classes: &["Glm4MoeLiteForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm4v", by_default: false, classes: &["Glm4vForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm4v_moe", by_default: false, classes: &["Glm4vMoeForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm5_next", by_default: false, classes: &["Glm5NextForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm_moe_dsa", by_default: false, classes: &["GlmMoeDsaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "glm_ocr", by_default: false, classes: &["GlmOcrForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "glmasr", by_default: true, classes: &["GlmAsrForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "got_ocr2", by_default: true, classes: &["GotOcr2ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "gpt2", by_default: true, classes: &["GPT2DoubleHeadsModel", "GPT2LMHeadModel"],
        ties: &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "gpt_bigcode", by_default: true, classes: &["GPTBigCodeForCausalLM"], ties:
        &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "gpt_neo", by_default: true, classes: &["GPTNeoForCausalLM"], ties:
        &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "gpt_neox", by_default: false, classes: &["GPTNeoXForCausalLM"], ties:
        &[("lm_head.weight", "gpt_neox.embed_in.weight")] },
    TiedClasses { model_type: "gpt_neox_japanese", by_default: true, classes: &["GPTNeoXJapaneseForCausalLM"],
        ties: &[("embed_out.weight", "gpt_neox_japanese.embed_in.weight")] },
    TiedClasses { model_type: "gpt_oss", by_default: false, classes: &["GptOssForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gptj", by_default: false, classes: &["GPTJForCausalLM"], ties:
        &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "granite", by_default: false, classes: &["GraniteForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "granite4_vision", by_default: false, classes:
        &["Granite4VisionForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "granite_docling", by_default: true, classes:
        &["GraniteDoclingForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "granite_speech", by_default: true, classes:
        &["GraniteSpeechForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "granite_speech5_ctc", by_default: true, classes: &["GraniteSpeech5ForCTC"],
        ties: &[("ctc_head.weight", "encoder.out.weight"), ("ctc_head.bias", "encoder.out.bias")] },
    TiedClasses { model_type: "granite_speech_plus", by_default: true, classes:
        &["GraniteSpeechPlusForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "granite_swa", by_default: true, classes: &["GraniteSWAForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "granitemoe", by_default: false, classes: &["GraniteMoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "granitemoe_swa", by_default: false, classes: &["GraniteMoeSWAForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "granitemoehybrid", by_default: false, classes:
        &["GraniteMoeHybridForCausalLM"], ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "granitemoeshared", by_default: false, classes:
        &["GraniteMoeSharedForCausalLM"], ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "gte", by_default: true, classes: &["GteForMaskedLM"], ties:
        &[("lm_head.decoder.weight", "gte.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "helium", by_default: false, classes: &["HeliumForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hrm_text", by_default: false, classes: &["HrmTextForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hunyuan_v1_dense", by_default: false, classes: &["HunYuanDenseV1ForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hunyuan_v1_moe", by_default: false, classes: &["HunYuanMoEV1ForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hunyuan_vl", by_default: true, classes: &["HunYuanVLForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "hy_v3", by_default: false, classes: &["HYV3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hy_v4", by_default: false, classes: &["HYV4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hy_v4_vl", by_default: false, classes: &["HYV4VLForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "hyperclovax", by_default: false, classes: &["HyperCLOVAXForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "hyperclovax_vision_v2", by_default: true, classes:
        &["HyperCLOVAXVisionV2ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "ibert", by_default: true, classes: &["IBertForMaskedLM"], ties:
        &[("lm_head.decoder.weight", "ibert.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias",
        "lm_head.bias")] },
    TiedClasses { model_type: "idefics", by_default: false, classes: &["IdeficsForVisionText2Text"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "idefics2", by_default: false, classes: &["Idefics2ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "idefics3", by_default: false, classes: &["Idefics3ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "imagegpt", by_default: false, classes: &["ImageGPTForCausalImageModeling"],
        ties: &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "internvl", by_default: true, classes: &["InternVLForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "jais2", by_default: false, classes: &["Jais2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "jamba", by_default: false, classes: &["JambaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "janus", by_default: true, classes: &["JanusForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "jetmoe", by_default: true, classes: &["JetMoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "jina_embeddings_v3", by_default: true, classes:
        &["JinaEmbeddingsV3ForMaskedLM"], ties: &[("lm_head.decoder.weight",
        "roberta.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "kimi_k25", by_default: true, classes: &["Kimi_K25ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "kolibri1", by_default: false, classes: &["Kolibri1ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "kosmos-2", by_default: true, classes: &["Kosmos2ForConditionalGeneration"],
        ties: &[("text_model.lm_head.weight", "text_model.model.embed_tokens.weight")] },
    TiedClasses { model_type: "kosmos-2.5", by_default: true, classes: &["Kosmos2_5ForConditionalGeneration"],
        ties: &[("text_model.lm_head.weight", "text_model.model.embed_tokens.weight")] },
    TiedClasses { model_type: "kosmos_2_5_text_model", by_default: true, classes:
        &["Kosmos2_5TextForCausalLM"], ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "kosmos_2_text_model", by_default: true, classes: &["Kosmos2TextForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "kyutai_speech_to_text", by_default: false, classes:
        &["KyutaiSpeechToTextForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.embed_tokens.embed_tokens.weight")] },
    TiedClasses { model_type: "laguna", by_default: false, classes: &["LagunaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "lara_mini", by_default: true, classes: &["LaraMiniForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "layoutlm", by_default: true, classes: &["LayoutLMForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "layoutlm.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "led", by_default: true, classes: &["LEDModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "led", by_default: true, classes: &["LEDForConditionalGeneration"], ties:
        &[("led.decoder.embed_tokens.weight", "led.shared.weight"), ("led.encoder.embed_tokens.weight",
        "led.shared.weight"), ("lm_head.weight", "led.shared.weight")] },
    TiedClasses { model_type: "lfm2", by_default: true, classes: &["Lfm2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "lfm2_moe", by_default: true, classes: &["Lfm2MoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "lfm2_vl", by_default: true, classes: &["Lfm2VlForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "lfm3", by_default: true, classes: &["Lfm3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "lfm3_vl", by_default: true, classes: &["Lfm3VlForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "lighton_ocr", by_default: true, classes:
        &["LightOnOcrForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "llama", by_default: false, classes: &["LlamaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "llama4", by_default: false, classes: &["Llama4ForConditionalGeneration"], ties:
        &[("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")] },
    TiedClasses { model_type: "llama4_text", by_default: false, classes: &["Llama4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "llava", by_default: false, classes: &["LlavaForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "llava_next", by_default: false, classes:
        &["LlavaNextForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "llava_next_video", by_default: false, classes:
        &["LlavaNextVideoForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "llava_onevision", by_default: false, classes:
        &["LlavaOnevisionForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "longcat_flash", by_default: false, classes: &["LongcatFlashForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "longformer", by_default: true, classes: &["LongformerForMaskedLM"], ties:
        &[("lm_head.decoder.weight", "longformer.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias",
        "lm_head.bias")] },
    TiedClasses { model_type: "longt5", by_default: true, classes: &["LongT5Model"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "longt5", by_default: true, classes: &["LongT5ForConditionalGeneration"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight"),
        ("lm_head.weight", "shared.weight")] },
    TiedClasses { model_type: "longt5", by_default: true, classes: &["LongT5EncoderModel"], ties:
        &[("encoder.embed_tokens.weight", "shared.weight")] },
    TiedClasses { model_type: "luke", by_default: true, classes: &["LukeForMaskedLM"], ties:
        &[("lm_head.bias", "lm_head.decoder.bias")] },
    TiedClasses { model_type: "lxmert", by_default: true, classes: &["LxmertForPreTraining"], ties:
        &[("cls.predictions.decoder.weight", "lxmert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "m2m_100", by_default: true, classes: &["M2M100Model"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "m2m_100", by_default: true, classes: &["M2M100ForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "mamba", by_default: true, classes: &["MambaForCausalLM"], ties:
        &[("lm_head.weight", "backbone.embeddings.weight")] },
    TiedClasses { model_type: "mamba2", by_default: false, classes: &["Mamba2ForCausalLM"], ties:
        &[("lm_head.weight", "backbone.embeddings.weight")] },
    TiedClasses { model_type: "marian", by_default: true, classes: &["MarianForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "marian", by_default: true, classes: &["MarianMTModel"], ties:
        &[("lm_head.weight", "model.encoder.embed_tokens.weight"), ("model.decoder.embed_tokens.weight",
        "model.encoder.embed_tokens.weight"), ("model.shared.weight", "model.encoder.embed_tokens.weight")] },
    TiedClasses { model_type: "mbart", by_default: true, classes: &["MBartModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "mbart", by_default: true, classes: &["MBartForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "mbart", by_default: true, classes: &["MBartForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "megatron-bert", by_default: true, classes: &["MegatronBertForCausalLM",
        "MegatronBertForMaskedLM", "MegatronBertForPreTraining"], ties: &[("cls.predictions.decoder.weight",
        "bert.embeddings.word_embeddings.weight"), ("cls.predictions.decoder.bias", "cls.predictions.bias")]
        },
    TiedClasses { model_type: "mellum", by_default: false, classes: &["MellumForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "mimo_v2_flash", by_default: false, classes: &["MiMoV2FlashForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "minicpm3", by_default: true, classes: &["MiniCPM3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "minicpm_ocr", by_default: true, classes:
        &["MiniCPMOcrForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "minicpmv4_6", by_default: false, classes:
        &["MiniCPMV4_6ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "minicpmv4_7", by_default: false, classes:
        &["MiniCPMV4_7ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "minimax", by_default: false, classes: &["MiniMaxForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "minimax_m2", by_default: false, classes: &["MiniMaxM2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "minimax_m3_vl", by_default: false, classes:
        &["MiniMaxM3SparseForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "minimax_m3_vl_text", by_default: false, classes: &["MiniMaxM3VLForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "ministral", by_default: false, classes: &["MinistralForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "ministral3", by_default: false, classes: &["Ministral3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "mistral", by_default: false, classes: &["MistralForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "mistral3", by_default: true, classes: &["Mistral3ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "mistral4", by_default: false, classes: &["Mistral4ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "mistral_large4", by_default: false, classes:
        &["MistralLarge4ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "mixtral", by_default: false, classes: &["MixtralForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "mobilebert", by_default: true, classes: &["MobileBertForMaskedLM",
        "MobileBertForPreTraining"], ties: &[("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("cls.predictions.decoder.weight", "mobilebert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "modernbert", by_default: true, classes: &["ModernBertForMaskedLM"], ties:
        &[("decoder.weight", "model.embeddings.tok_embeddings.weight")] },
    TiedClasses { model_type: "modernbert-decoder", by_default: true, classes:
        &["ModernBertDecoderForCausalLM"], ties: &[("decoder.weight",
        "model.embeddings.tok_embeddings.weight")] },
    TiedClasses { model_type: "modernvbert", by_default: false, classes: &["ModernVBertForMaskedLM"], ties:
        &[("lm_head.weight", "model.text_model.embeddings.tok_embeddings.weight")] },
    TiedClasses { model_type: "moonshine", by_default: true, classes: &["MoonshineForConditionalGeneration"],
        ties: &[("proj_out.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "moonshine_streaming", by_default: false, classes:
        &["MoonshineStreamingForConditionalGeneration"], ties: &[("proj_out.weight",
        "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "moss_transcribe_diarize", by_default: true, classes:
        &["MossTranscribeDiarizeForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "mpnet", by_default: true, classes: &["MPNetForMaskedLM"], ties:
        &[("lm_head.decoder.weight", "mpnet.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias",
        "lm_head.bias")] },
    TiedClasses { model_type: "mpt", by_default: true, classes: &["MptForCausalLM"], ties:
        &[("lm_head.weight", "transformer.wte.weight")] },
    TiedClasses { model_type: "mra", by_default: true, classes: &["MraForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "mra.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "mt5", by_default: true, classes: &["MT5ForQuestionAnswering", "MT5Model"],
        ties: &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight",
        "shared.weight")] },
    TiedClasses { model_type: "mt5", by_default: true, classes: &["MT5ForConditionalGeneration"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight"),
        ("lm_head.weight", "shared.weight")] },
    TiedClasses { model_type: "mt5", by_default: true, classes: &["MT5EncoderModel"], ties:
        &[("encoder.embed_tokens.weight", "shared.weight")] },
    TiedClasses { model_type: "muse_glimmer", by_default: false, classes:
        &["MuseGlimmerForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "mvp", by_default: true, classes: &["MvpModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "mvp", by_default: true, classes: &["MvpForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "mvp", by_default: true, classes: &["MvpForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "nanochat", by_default: false, classes: &["NanoChatForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "nemotron", by_default: false, classes: &["NemotronForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "neomme", by_default: true, classes: &["NeoMMEForMaskedLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.word_embeddings.weight")] },
    TiedClasses { model_type: "nllb-moe", by_default: true, classes: &["NllbMoeModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "nllb-moe", by_default: true, classes: &["NllbMoeForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "nomic_bert", by_default: true, classes: &["NomicBertForMaskedLM"], ties:
        &[("cls.predictions.decoder.weight", "nomic_bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias")] },
    TiedClasses { model_type: "nystromformer", by_default: true, classes: &["NystromformerForMaskedLM"], ties:
        &[("cls.predictions.decoder.weight", "nystromformer.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias")] },
    TiedClasses { model_type: "olmo", by_default: false, classes: &["OlmoForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "olmo2", by_default: false, classes: &["Olmo2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "olmo3", by_default: false, classes: &["Olmo3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "olmo_hybrid", by_default: false, classes: &["OlmoHybridForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "olmoe", by_default: false, classes: &["OlmoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "openai-gpt", by_default: true, classes: &["OpenAIGPTDoubleHeadsModel",
        "OpenAIGPTLMHeadModel"], ties: &[("lm_head.weight", "transformer.tokens_embed.weight")] },
    TiedClasses { model_type: "opt", by_default: true, classes: &["OPTForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "ovis2", by_default: true, classes: &["Ovis2ForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "paddleocr_vl", by_default: true, classes:
        &["PaddleOCRVLForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "paligemma", by_default: true, classes: &["PaliGemmaForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "pegasus", by_default: true, classes: &["PegasusModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "pegasus", by_default: true, classes: &["PegasusForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "pegasus", by_default: true, classes: &["PegasusForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "pegasus_x", by_default: true, classes: &["PegasusXModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "pegasus_x", by_default: true, classes: &["PegasusXForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "perception_lm", by_default: false, classes:
        &["PerceptionLMForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "persimmon", by_default: false, classes: &["PersimmonForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "phi", by_default: false, classes: &["PhiForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "phi3", by_default: false, classes: &["Phi3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "phi4_multimodal", by_default: false, classes: &["Phi4MultimodalForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "phimoe", by_default: false, classes: &["PhimoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "pix2struct", by_default: false, classes:
        &["Pix2StructForConditionalGeneration"], ties: &[("decoder.lm_head.weight",
        "decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "pix2struct_text_model", by_default: false, classes: &["Pix2StructTextModel"],
        ties: &[("lm_head.weight", "embed_tokens.weight")] },
    TiedClasses { model_type: "plbart", by_default: true, classes: &["PLBartModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "plbart", by_default: true, classes: &["PLBartForCausalLM"], ties:
        &[("lm_head.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "plbart", by_default: true, classes: &["PLBartForConditionalGeneration"], ties:
        &[("lm_head.weight", "model.shared.weight"), ("model.decoder.embed_tokens.weight",
        "model.shared.weight"), ("model.encoder.embed_tokens.weight", "model.shared.weight")] },
    TiedClasses { model_type: "pop2piano", by_default: true, classes: &["Pop2PianoForConditionalGeneration"],
        ties: &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight",
        "shared.weight")] },
    TiedClasses { model_type: "prophetnet", by_default: true, classes: &["ProphetNetDecoderWrapper"], ties:
        &[("decoder.word_embeddings.weight", "word_embeddings.weight")] },
    TiedClasses { model_type: "prophetnet", by_default: true, classes: &["ProphetNetModel"], ties:
        &[("decoder.word_embeddings.weight", "word_embeddings.weight"), ("encoder.word_embeddings.weight",
        "word_embeddings.weight")] },
    TiedClasses { model_type: "prophetnet", by_default: true, classes: &["ProphetNetForCausalLM"], ties:
        &[("lm_head.weight", "prophetnet.decoder.word_embeddings.weight"),
        ("prophetnet.word_embeddings.weight", "prophetnet.decoder.word_embeddings.weight")] },
    TiedClasses { model_type: "prophetnet", by_default: true, classes:
        &["ProphetNetForConditionalGeneration"], ties: &[("lm_head.weight",
        "prophetnet.word_embeddings.weight"), ("prophetnet.decoder.word_embeddings.weight",
        "prophetnet.word_embeddings.weight"), ("prophetnet.encoder.word_embeddings.weight",
        "prophetnet.word_embeddings.weight")] },
    TiedClasses { model_type: "qianfan_ocr", by_default: false, classes:
        &["QianfanOCRForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen2", by_default: false, classes: &["Qwen2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen2_5_omni", by_default: false, classes:
        &["Qwen2_5OmniForConditionalGeneration"], ties: &[("thinker.lm_head.weight",
        "thinker.model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen2_5_omni_thinker", by_default: false, classes:
        &["Qwen2_5OmniThinkerForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen2_5_vl", by_default: false, classes:
        &["Qwen2_5_VLForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen2_moe", by_default: false, classes: &["Qwen2MoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen2_vl", by_default: false, classes: &["Qwen2VLForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3", by_default: false, classes: &["Qwen3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_5", by_default: false, classes: &["Qwen3_5ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_5_moe", by_default: false, classes:
        &["Qwen3_5MoeForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_5_moe_text", by_default: false, classes: &["Qwen3_5MoeForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_5_text", by_default: false, classes: &["Qwen3_5ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_asr", by_default: true, classes: &["Qwen3ASRForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_moe", by_default: false, classes: &["Qwen3MoeForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_next", by_default: false, classes: &["Qwen3NextForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_omni_moe_talker_code_predictor", by_default: false, classes:
        &["Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_omni_moe_thinker", by_default: false, classes:
        &["Qwen3OmniMoeThinkerForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_vl", by_default: false, classes: &["Qwen3VLForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen3_vl_moe", by_default: false, classes:
        &["Qwen3VLMoeForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen4_exp", by_default: false, classes: &["Qwen4ExpForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "qwen4_exp_text", by_default: false, classes: &["Qwen4ExpForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "recurrent_gemma", by_default: true, classes: &["RecurrentGemmaForCausalLM"],
        ties: &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "roberta", by_default: true, classes: &["RobertaForCausalLM",
        "RobertaForMaskedLM"], ties: &[("lm_head.decoder.weight",
        "roberta.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "roberta-prelayernorm", by_default: true, classes:
        &["RobertaPreLayerNormForCausalLM", "RobertaPreLayerNormForMaskedLM"], ties:
        &[("lm_head.decoder.weight", "roberta_prelayernorm.embeddings.word_embeddings.weight"),
        ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "roc_bert", by_default: true, classes: &["RoCBertForCausalLM",
        "RoCBertForMaskedLM", "RoCBertForPreTraining"], ties: &[("cls.predictions.decoder.bias",
        "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "roc_bert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "roformer", by_default: true, classes: &["RoFormerForCausalLM",
        "RoFormerForMaskedLM"], ties: &[("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("cls.predictions.decoder.weight", "roformer.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "rwkv", by_default: false, classes: &["RwkvForCausalLM"], ties:
        &[("head.weight", "rwkv.embeddings.weight")] },
    TiedClasses { model_type: "seamless_m4t", by_default: true, classes:
        &["SeamlessM4TTextToUnitForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "seamless_m4t", by_default: true, classes: &["SeamlessM4TForSpeechToSpeech",
        "SeamlessM4TForSpeechToText"], ties: &[("lm_head.weight", "text_decoder.embed_tokens.weight"),
        ("shared.weight", "text_decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "seamless_m4t", by_default: true, classes: &["SeamlessM4TForTextToSpeech",
        "SeamlessM4TForTextToText", "SeamlessM4TModel"], ties: &[("lm_head.weight",
        "text_decoder.embed_tokens.weight"), ("shared.weight", "text_decoder.embed_tokens.weight"),
        ("text_encoder.embed_tokens.weight", "text_decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "seamless_m4t_v2", by_default: true, classes:
        &["SeamlessM4Tv2TextToUnitForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "seamless_m4t_v2", by_default: true, classes:
        &["SeamlessM4Tv2ForSpeechToSpeech", "SeamlessM4Tv2ForSpeechToText"], ties: &[("lm_head.weight",
        "text_decoder.embed_tokens.weight"), ("shared.weight", "text_decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "seamless_m4t_v2", by_default: true, classes: &["SeamlessM4Tv2ForTextToSpeech",
        "SeamlessM4Tv2ForTextToText", "SeamlessM4Tv2Model"], ties: &[("lm_head.weight",
        "text_decoder.embed_tokens.weight"), ("shared.weight", "text_decoder.embed_tokens.weight"),
        ("text_encoder.embed_tokens.weight", "text_decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "seed_oss", by_default: false, classes: &["SeedOssForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "smollm3", by_default: true, classes: &["SmolLM3ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "smolvlm", by_default: false, classes: &["SmolVLMForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "solar_open", by_default: false, classes: &["SolarOpenForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "speech_to_text", by_default: true, classes:
        &["Speech2TextForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "speecht5", by_default: true, classes: &["SpeechT5ForSpeechToText"], ties:
        &[("text_decoder_postnet.lm_head.weight", "speecht5.decoder.prenet.embed_tokens.weight")] },
    TiedClasses { model_type: "squeezebert", by_default: true, classes: &["SqueezeBertForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "transformer.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "stablelm", by_default: false, classes: &["StableLmForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "starcoder2", by_default: true, classes: &["Starcoder2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "step3p7", by_default: false, classes: &["Step3p7ForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "switch_transformers", by_default: true, classes: &["SwitchTransformersModel"],
        ties: &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight",
        "shared.weight")] },
    TiedClasses { model_type: "switch_transformers", by_default: true, classes:
        &["SwitchTransformersForConditionalGeneration"], ties: &[("decoder.embed_tokens.weight",
        "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight"), ("lm_head.weight",
        "shared.weight")] },
    TiedClasses { model_type: "switch_transformers", by_default: true, classes:
        &["SwitchTransformersEncoderModel"], ties: &[("encoder.embed_tokens.weight", "shared.weight")] },
    TiedClasses { model_type: "t5", by_default: true, classes: &["T5ForQuestionAnswering", "T5Model"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "t5", by_default: true, classes: &["T5ForConditionalGeneration"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight"),
        ("lm_head.weight", "shared.weight")] },
    TiedClasses { model_type: "t5", by_default: true, classes: &["T5EncoderModel"], ties:
        &[("encoder.embed_tokens.weight", "shared.weight")] },
    TiedClasses { model_type: "t5gemma", by_default: true, classes: &["T5GemmaForConditionalGeneration"],
        ties: &[("lm_head.out_proj.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "t5gemma2", by_default: true, classes: &["T5Gemma2Model"], ties:
        &[("decoder.embed_tokens.weight", "encoder.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "t5gemma2", by_default: true, classes: &["T5Gemma2ForConditionalGeneration"],
        ties: &[("lm_head.out_proj.weight", "model.encoder.text_model.embed_tokens.weight"),
        ("model.decoder.embed_tokens.weight", "model.encoder.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "tapas", by_default: true, classes: &["TapasForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "tapas.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "trocr", by_default: true, classes: &["TrOCRForCausalLM"], ties:
        &[("output_projection.weight", "model.decoder.embed_tokens.weight")] },
    TiedClasses { model_type: "udop", by_default: true, classes: &["UdopModel"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight")]
        },
    TiedClasses { model_type: "udop", by_default: true, classes: &["UdopForConditionalGeneration"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight"),
        ("lm_head.weight", "shared.weight")] },
    TiedClasses { model_type: "udop", by_default: true, classes: &["UdopEncoderModel"], ties:
        &[("encoder.embed_tokens.weight", "shared.weight")] },
    TiedClasses { model_type: "ultrabert", by_default: false, classes: &["UltrabertForMaskedLM"], ties:
        &[("head.decoder.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "ultravbert", by_default: false, classes: &["UltraVBertForMaskedLM"], ties:
        &[("lm_head.weight", "model.text_model.embed_tokens.weight")] },
    TiedClasses { model_type: "umt5", by_default: true, classes: &["UMT5ForQuestionAnswering", "UMT5Model"],
        ties: &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight",
        "shared.weight")] },
    TiedClasses { model_type: "umt5", by_default: true, classes: &["UMT5ForConditionalGeneration"], ties:
        &[("decoder.embed_tokens.weight", "shared.weight"), ("encoder.embed_tokens.weight", "shared.weight"),
        ("lm_head.weight", "shared.weight")] },
    TiedClasses { model_type: "umt5", by_default: true, classes: &["UMT5EncoderModel"], ties:
        &[("encoder.embed_tokens.weight", "shared.weight")] },
    TiedClasses { model_type: "unlimited_ocr", by_default: false, classes:
        &["UnlimitedOcrForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "vaultgemma", by_default: true, classes: &["VaultGemmaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "vibevoice", by_default: false, classes: &["VibeVoiceForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "video_llama_3", by_default: false, classes:
        &["VideoLlama3ForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "video_llava", by_default: false, classes:
        &["VideoLlavaForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "vilt", by_default: true, classes: &["ViltForMaskedLM"], ties:
        &[("mlm_score.decoder.weight", "vilt.embeddings.text_embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "vipllava", by_default: false, classes: &["VipLlavaForConditionalGeneration"],
        ties: &[("lm_head.weight", "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "visual_bert", by_default: true, classes: &["VisualBertForPreTraining"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "visual_bert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "visual_bert", by_default: true, classes:
        &["VisualBertForRegionToPhraseAlignment"], ties: &[("cls.predictions.decoder.weight",
        "visual_bert.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "voxtral_realtime", by_default: true, classes:
        &["VoxtralRealtimeForConditionalGeneration"], ties: &[("lm_head.weight",
        "model.language_model.embed_tokens.weight")] },
    TiedClasses { model_type: "whisper", by_default: true, classes: &["WhisperForCausalLM",
        "WhisperForConditionalGeneration"], ties: &[("proj_out.weight", "model.decoder.embed_tokens.weight")]
        },
    TiedClasses { model_type: "xglm", by_default: true, classes: &["XGLMForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "xlm", by_default: true, classes: &["XLMWithLMHeadModel"], ties:
        &[("pred_layer.proj.weight", "transformer.embeddings.weight")] },
    TiedClasses { model_type: "xlm-roberta", by_default: true, classes: &["XLMRobertaForCausalLM",
        "XLMRobertaForMaskedLM"], ties: &[("lm_head.decoder.weight",
        "roberta.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "xlm-roberta-xl", by_default: true, classes: &["XLMRobertaXLForCausalLM",
        "XLMRobertaXLForMaskedLM"], ties: &[("lm_head.decoder.weight",
        "roberta.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "xlnet", by_default: true, classes: &["XLNetLMHeadModel"], ties:
        &[("lm_loss.weight", "transformer.word_embedding.weight")] },
    TiedClasses { model_type: "xmod", by_default: true, classes: &["XmodForCausalLM", "XmodForMaskedLM"],
        ties: &[("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("lm_head.decoder.bias", "lm_head.bias")] },
    TiedClasses { model_type: "yoso", by_default: true, classes: &["YosoForMaskedLM"], ties:
        &[("cls.predictions.decoder.bias", "cls.predictions.bias"), ("cls.predictions.decoder.weight",
        "yoso.embeddings.word_embeddings.weight")] },
    TiedClasses { model_type: "youtu", by_default: true, classes: &["YoutuForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "zamba", by_default: true, classes: &["ZambaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "zamba2", by_default: true, classes: &["Zamba2ForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
    TiedClasses { model_type: "zaya", by_default: true, classes: &["ZayaForCausalLM"], ties:
        &[("lm_head.weight", "model.embed_tokens.weight")] },
];

/// Classes that classify sequences.
#[rustfmt::skip]
pub(super) const SEQUENCE_CLASSIFIERS: [&str; 126] = [
    "AXK1ForSequenceClassification", "AXK2ForSequenceClassification", "AlbertForSequenceClassification",
        "ArceeForSequenceClassification", "BartForSequenceClassification", "BertForSequenceClassification",
        "BigBirdForSequenceClassification", "BigBirdPegasusForSequenceClassification",
        "BioGptForSequenceClassification", "BloomForSequenceClassification", "CTRLForSequenceClassification",
        "CamembertForSequenceClassification", "CanineForSequenceClassification",
        "CohereCompassTextForSequenceClassification", "ConvBertForSequenceClassification",
        "Data2VecTextForSequenceClassification", "DebertaForSequenceClassification",
        "DebertaV2ForSequenceClassification", "DeepseekV2ForSequenceClassification",
        "DeepseekV3ForSequenceClassification", "DiffLlamaForSequenceClassification",
        "DistilBertForSequenceClassification", "DogeForSequenceClassification",
        "ElectraForSequenceClassification", "ErnieForSequenceClassification", "EsmForSequenceClassification",
        "EsmcForSequenceClassification", "EuroBertForSequenceClassification",
        "Exaone4ForSequenceClassification", "FNetForSequenceClassification",
        "FalconForSequenceClassification", "FlaubertForSequenceClassification",
        "FunnelForSequenceClassification", "GPT2ForSequenceClassification",
        "GPTBigCodeForSequenceClassification", "GPTJForSequenceClassification",
        "GPTNeoForSequenceClassification", "GPTNeoXForSequenceClassification",
        "Gemma2ForSequenceClassification", "Gemma3ForSequenceClassification",
        "Gemma3TextForSequenceClassification", "GemmaForSequenceClassification",
        "Glm4ForSequenceClassification", "GlmForSequenceClassification", "GptOssForSequenceClassification",
        "GteForSequenceClassification", "HeliumForSequenceClassification",
        "HunYuanDenseV1ForSequenceClassification", "HunYuanMoEV1ForSequenceClassification",
        "IBertForSequenceClassification", "JambaForSequenceClassification", "JetMoeForSequenceClassification",
        "JinaEmbeddingsV3ForSequenceClassification", "LayoutLMForSequenceClassification",
        "LayoutLMv2ForSequenceClassification", "LayoutLMv3ForSequenceClassification",
        "LiltForSequenceClassification", "LlamaForSequenceClassification",
        "LongformerForSequenceClassification", "LukeForSequenceClassification",
        "MBartForSequenceClassification", "MPNetForSequenceClassification", "MT5ForSequenceClassification",
        "MarkupLMForSequenceClassification", "MegatronBertForSequenceClassification",
        "MiniCPM3ForSequenceClassification", "MiniMaxForSequenceClassification",
        "Ministral3ForSequenceClassification", "MinistralForSequenceClassification",
        "Mistral4ForSequenceClassification", "MistralForSequenceClassification",
        "MixtralForSequenceClassification", "MobileBertForSequenceClassification",
        "ModernBertDecoderForSequenceClassification", "ModernBertForSequenceClassification",
        "ModernVBertForSequenceClassification", "MptForSequenceClassification",
        "MraForSequenceClassification", "MvpForSequenceClassification", "NemotronForSequenceClassification",
        "NomicBertForSequenceClassification", "NystromformerForSequenceClassification",
        "OPTForSequenceClassification", "Olmo2ForSequenceClassification", "Olmo3ForSequenceClassification",
        "OlmoForSequenceClassification", "OpenAIGPTForSequenceClassification",
        "PLBartForSequenceClassification", "PerceiverForSequenceClassification",
        "PersimmonForSequenceClassification", "Phi3ForSequenceClassification", "PhiForSequenceClassification",
        "PhimoeForSequenceClassification", "Qwen2ForSequenceClassification",
        "Qwen2MoeForSequenceClassification", "Qwen3ForSequenceClassification",
        "Qwen3MoeForSequenceClassification", "Qwen3NextForSequenceClassification",
        "Qwen3_5ForSequenceClassification", "Qwen3_5TextForSequenceClassification",
        "ReformerForSequenceClassification", "RemBertForSequenceClassification",
        "RoCBertForSequenceClassification", "RoFormerForSequenceClassification",
        "RobertaForSequenceClassification", "RobertaPreLayerNormForSequenceClassification",
        "SeedOssForSequenceClassification", "SmolLM3ForSequenceClassification",
        "SqueezeBertForSequenceClassification", "StableLmForSequenceClassification",
        "Starcoder2ForSequenceClassification", "T5ForSequenceClassification",
        "T5Gemma2ForSequenceClassification", "T5GemmaForSequenceClassification",
        "TapasForSequenceClassification", "UMT5ForSequenceClassification",
        "UltraVBertForSequenceClassification", "UltrabertForSequenceClassification",
        "XLMForSequenceClassification", "XLMRobertaForSequenceClassification",
        "XLMRobertaXLForSequenceClassification", "XLNetForSequenceClassification",
        "XmodForSequenceClassification", "YosoForSequenceClassification", "Zamba2ForSequenceClassification",
        "ZambaForSequenceClassification",
];

/// Classes that classify tokens.
#[rustfmt::skip]
pub(super) const TOKEN_CLASSIFIERS: [&str; 101] = [
    "AXK1ForTokenClassification", "AXK2ForTokenClassification", "AlbertForTokenClassification",
        "ApertusForTokenClassification", "ArceeForTokenClassification", "BeamForTokenClassification",
        "BertForTokenClassification", "BigBirdForTokenClassification", "BioGptForTokenClassification",
        "BloomForTokenClassification", "BrosForTokenClassification", "CamembertForTokenClassification",
        "CanineForTokenClassification", "ConvBertForTokenClassification",
        "Data2VecTextForTokenClassification", "DebertaForTokenClassification",
        "DebertaV2ForTokenClassification", "DeepseekV3ForTokenClassification",
        "DiffLlamaForTokenClassification", "DistilBertForTokenClassification",
        "ElectraForTokenClassification", "ErnieForTokenClassification", "EsmForTokenClassification",
        "EsmcForTokenClassification", "EuroBertForTokenClassification", "Exaone4ForTokenClassification",
        "FNetForTokenClassification", "FalconForTokenClassification", "FlaubertForTokenClassification",
        "FunnelForTokenClassification", "GPT2ForTokenClassification", "GPTBigCodeForTokenClassification",
        "GPTNeoForTokenClassification", "GPTNeoXForTokenClassification", "Gemma2ForTokenClassification",
        "GemmaForTokenClassification", "Glm4ForTokenClassification", "GlmForTokenClassification",
        "GptOssForTokenClassification", "GteForTokenClassification", "HeliumForTokenClassification",
        "IBertForTokenClassification", "JinaEmbeddingsV3ForTokenClassification",
        "LayoutLMForTokenClassification", "LayoutLMv2ForTokenClassification",
        "LayoutLMv3ForTokenClassification", "LiltForTokenClassification", "LlamaForTokenClassification",
        "LongformerForTokenClassification", "LukeForTokenClassification", "MPNetForTokenClassification",
        "MT5ForTokenClassification", "MarkupLMForTokenClassification", "MegatronBertForTokenClassification",
        "MiniMaxForTokenClassification", "Ministral3ForTokenClassification",
        "MinistralForTokenClassification", "Mistral4ForTokenClassification", "MistralForTokenClassification",
        "MixtralForTokenClassification", "MobileBertForTokenClassification",
        "ModernBertForTokenClassification", "ModernVBertForTokenClassification", "MptForTokenClassification",
        "MraForTokenClassification", "NemotronForTokenClassification", "NomicBertForTokenClassification",
        "NystromformerForTokenClassification", "OpenAIPrivacyFilterForTokenClassification",
        "PersimmonForTokenClassification", "Phi3ForTokenClassification", "PhiForTokenClassification",
        "Qwen2ForTokenClassification", "Qwen2MoeForTokenClassification", "Qwen3ASRForTokenClassification",
        "Qwen3ForTokenClassification", "Qwen3MoeForTokenClassification", "Qwen3NextForTokenClassification",
        "Qwen3_5ForTokenClassification", "RemBertForTokenClassification", "RoCBertForTokenClassification",
        "RoFormerForTokenClassification", "RobertaForTokenClassification",
        "RobertaPreLayerNormForTokenClassification", "SeedOssForTokenClassification",
        "SmolLM3ForTokenClassification", "SqueezeBertForTokenClassification",
        "StableLmForTokenClassification", "Starcoder2ForTokenClassification", "T5ForTokenClassification",
        "T5Gemma2ForTokenClassification", "T5GemmaForTokenClassification", "UMT5ForTokenClassification",
        "UltraVBertForTokenClassification", "UltrabertForTokenClassification", "XLMForTokenClassification",
        "XLMRobertaForTokenClassification", "XLMRobertaXLForTokenClassification",
        "XLNetForTokenClassification", "XmodForTokenClassification", "YosoForTokenClassification",
];

/// Classes that find answers in texts.
#[rustfmt::skip]
pub(super) const QUESTION_ANSWERERS: [&str; 78] = [
    "AlbertForQuestionAnswering", "ArceeForQuestionAnswering", "BartForQuestionAnswering",
        "BertForQuestionAnswering", "BigBirdForQuestionAnswering", "BigBirdPegasusForQuestionAnswering",
        "BloomForQuestionAnswering", "CamembertForQuestionAnswering", "CanineForQuestionAnswering",
        "ConvBertForQuestionAnswering", "Data2VecTextForQuestionAnswering", "DebertaForQuestionAnswering",
        "DebertaV2ForQuestionAnswering", "DiffLlamaForQuestionAnswering", "DistilBertForQuestionAnswering",
        "ElectraForQuestionAnswering", "ErnieForQuestionAnswering", "Exaone4ForQuestionAnswering",
        "FNetForQuestionAnswering", "FalconForQuestionAnswering", "FlaubertForQuestionAnsweringSimple",
        "FunnelForQuestionAnswering", "GPT2ForQuestionAnswering", "GPTJForQuestionAnswering",
        "GPTNeoForQuestionAnswering", "GPTNeoXForQuestionAnswering", "IBertForQuestionAnswering",
        "JinaEmbeddingsV3ForQuestionAnswering", "LEDForQuestionAnswering", "LayoutLMv2ForQuestionAnswering",
        "LayoutLMv3ForQuestionAnswering", "LiltForQuestionAnswering", "LlamaForQuestionAnswering",
        "LongformerForQuestionAnswering", "LukeForQuestionAnswering", "LxmertForQuestionAnswering",
        "MBartForQuestionAnswering", "MPNetForQuestionAnswering", "MT5ForQuestionAnswering",
        "MarkupLMForQuestionAnswering", "MegatronBertForQuestionAnswering", "MiniMaxForQuestionAnswering",
        "Ministral3ForQuestionAnswering", "MinistralForQuestionAnswering", "MistralForQuestionAnswering",
        "MixtralForQuestionAnswering", "MobileBertForQuestionAnswering", "ModernBertForQuestionAnswering",
        "MptForQuestionAnswering", "MraForQuestionAnswering", "MvpForQuestionAnswering",
        "NemotronForQuestionAnswering", "NystromformerForQuestionAnswering", "OPTForQuestionAnswering",
        "Qwen2ForQuestionAnswering", "Qwen2MoeForQuestionAnswering", "Qwen3ForQuestionAnswering",
        "Qwen3MoeForQuestionAnswering", "Qwen3NextForQuestionAnswering", "ReformerForQuestionAnswering",
        "RemBertForQuestionAnswering", "RoCBertForQuestionAnswering", "RoFormerForQuestionAnswering",
        "RobertaForQuestionAnswering", "RobertaPreLayerNormForQuestionAnswering",
        "SeedOssForQuestionAnswering", "SmolLM3ForQuestionAnswering", "SplinterForQuestionAnswering",
        "SqueezeBertForQuestionAnswering", "T5ForQuestionAnswering", "UMT5ForQuestionAnswering",
        "UltrabertForQuestionAnswering", "XLMForQuestionAnsweringSimple", "XLMRobertaForQuestionAnswering",
        "XLMRobertaXLForQuestionAnswering", "XLNetForQuestionAnsweringSimple", "XmodForQuestionAnswering",
        "YosoForQuestionAnswering",
];
