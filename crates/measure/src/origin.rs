//! Where numbers come from: the machine and the commit.

/// The processor's name.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let name = name.trim_start_matches([' ', '\t', ':']);
    if name.is_empty() { std::env::consts::ARCH.to_string() } else { name.to_string() }
}

/// From `LORA_COMMIT` where there is no repository, else from git.
pub fn commit() -> String {
    std::env::var("LORA_COMMIT").unwrap_or_else(|_| {
        let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
    })
}
