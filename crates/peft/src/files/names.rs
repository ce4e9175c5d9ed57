//! Names by which the readers of one kind of file know those of another.

/// The configuration in an adapter's directory.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The weights in an adapter's directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The directory of restore records inside a merged checkpoint.
pub const RECORD_DIRECTORY: &str = "lora_restore";
