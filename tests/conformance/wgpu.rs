//! The whole model through every WGSL kernel it needs, on Mesa's software driver: slow, so a few tokens of a few
//! prompts. Without that driver the test says so loudly; with `OUTRIDER_REQUIRE_WGPU=1` it fails instead.

use crate::{cases, generated, greedy};
use outrider_tests::places::smollm2;
use outrider_tests::worker::{WorkerProcess, generate};

const TOKENS: usize = 6;
const PROMPTS: usize = 3;

/// Whether the Vulkan loader finds a software driver here.
fn driver() -> bool {
    let folders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let mut names = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    names.any(|entry| entry.file_name().to_string_lossy().starts_with("lvp_icd"))
}

#[tokio::test]
async fn does_the_model_say_the_same_on_wgpu() {
    if !driver() {
        assert!(std::env::var("OUTRIDER_REQUIRE_WGPU").is_err(), "the software Vulkan driver is required and absent");
        // Not `eprintln!`: the test runner hides what a passing test prints with it.
        let words = b"SKIPPED: no software Vulkan driver (Debian: mesa-vulkan-drivers); no model was run on wgpu\n";
        std::io::Write::write_all(&mut std::io::stderr(), words).expect("stderr");
        return;
    }
    let worker = WorkerProcess::start("wgpu:llvmpipe", &[("smollm2", &smollm2())]);
    let mut client = worker.client().await;
    let mut cases = cases();
    cases.sort_by_key(|case| case.prompt_ids.len());
    for case in cases.into_iter().take(PROMPTS) {
        let events = generate(&mut client, greedy(case.prompt.clone(), TOKENS as u32)).await;
        assert_eq!(generated(&events), case.ids[..TOKENS], "{:?}", case.prompt);
    }
}
