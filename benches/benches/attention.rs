//! Fused attention, in steps, and other engines': `cargo bench --bench attention [-- FILTER --rounds N --sample-ms N --records FILE]`.
//!
//! Causal cases are those of the engines' operation `attention` too: torch's is `scaled_dot_product_attention`. With `--features
//! large` long sequences.

use std::cell::RefCell;
use std::time::Duration;

use barelm::llm::operations::{Attention, Operations, Scratch};
use barelm::llm::pool::Team;
use barelm_benches::contest::{Contender, Of, Settings, Task, run};
use barelm_benches::{peers, wave};
use barelm_host::limits::f32_rate;
use barelm_host::team::ThreadTeam;

fn main() {
    let settings = Settings::from_env();
    let full = |heads, kv_heads, n, head_dim| Attention {
        heads,
        kv_heads,
        queries: n,
        keys: n,
        head_dim,
        causal: false,
        scale: 1.0 / libm::sqrtf(head_dim as f32),
    };
    let causal =
        |heads, kv_heads, n, head_dim| Attention { causal: true, ..full(heads, kv_heads, n, head_dim) };
    let mut shapes =
        vec![causal(8, 8, 512, 64), full(8, 8, 512, 64), causal(9, 3, 1024, 64), causal(8, 8, 128, 64)];
    if cfg!(feature = "large") {
        shapes.extend([causal(8, 8, 4096, 64), full(8, 8, 4096, 64), causal(32, 8, 2048, 128)]);
    }
    for threads in [1, 2] {
        let team = ThreadTeam::try_new(threads).expect("threads start");
        for shape in &shapes {
            one(&settings, &team, shape);
        }
    }
}

fn one(settings: &Settings, team: &ThreadTeam, shape: &Attention) {
    let Attention { heads, kv_heads, queries, keys, head_dim, causal, .. } = *shape;
    let task = Task {
        name: format!(
            "attention/{} {heads}:{kv_heads} heads {queries}x{head_dim}",
            if causal { "causal" } else { "full" }
        ),
        flops: shape.flops(),
        bytes: 0,
        elements: 0,
        threads: team.size(),
        expected: "a fused kernel 2 to 10 times as fast as steps".to_owned(),
    };
    if !settings.wants(&task.name) {
        return;
    }
    let q = wave(heads * queries * head_dim, 1);
    let [k, v] = [2, 3].map(|seed| wave(kv_heads * keys * head_dim, seed));
    let (q, k, v) = (&q[..], &k[..], &v[..]);
    let operations = Operations::best();
    let scratch = RefCell::new(Scratch::new(team.size()));
    let (out, scores) = (RefCell::new(vec![0.0f32; q.len()]), RefCell::new(vec![0.0f32; queries * keys]));
    let (out, scores, scratch) = (&out, &scores, &scratch);
    let mut contenders = vec![
        Contender::new(&format!("BareLM, fused ({})", operations.name), move || {
            let (mut out, mut scratch) = (out.borrow_mut(), scratch.borrow_mut());
            operations.attention(team, shape, q, k, v, &mut out, &mut scratch).expect("shapes agree");
        }),
        Contender::new("BareLM, in steps", move || {
            let (mut out, mut scores) = (out.borrow_mut(), scores.borrow_mut());
            let scratch = &mut scratch.borrow_mut();
            operations
                .attention_unfused(team, shape, q, k, v, &mut out, &mut scores, scratch)
                .expect("shapes agree");
        }),
    ];
    let mut expected: Option<Vec<f32>> = None;
    for contender in &mut contenders {
        if let Ok(sampler) = &mut contender.sampler {
            sampler(Duration::ZERO).expect("contenders of this process run");
            let expected = expected.get_or_insert_with(|| out.borrow().clone());
            let agree = out.borrow().iter().zip(&*expected).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(agree, "{} attends otherwise", contender.name);
        }
    }
    for peer in peers::PEERS {
        contenders.push(if causal && heads == kv_heads {
            let params = [
                ("heads", heads),
                ("queries", queries),
                ("positions", keys),
                ("head_dim", head_dim),
                ("threads", team.size()),
            ];
            peers::contender(peer, "attention", &params)
        } else {
            Contender::absent(peer, "its operation is causal, with a key head for each query head")
        });
    }
    let mut peak = || f32_rate(team, Duration::from_millis(3)).1;
    run(
        settings,
        &task,
        contenders,
        Some(("fused multiplications of f32 on registers", Of::Flops, &mut peak)),
    );
}
