//! Which tokens end a generation: those the file names, and those llama.cpp knows by their text.

use alloc::vec::Vec;

use super::Roles;
use super::vocab::{TokenKind, Vocab};
use crate::llm::sort;

/// Texts that always end a generation.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Texts of fill-in-the-middle roles that end a generation; the first that exists has the role.
const FIM_PAD: [&str; 5] = ["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP: [&str; 5] = ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEP: [&str; 1] = ["<|file_sep|>"];

/// Decides and marks those tokens as control tokens.
pub(super) fn decide(vocab: &mut Vocab<'_>, roles: &Roles) -> Vec<u32> {
    let mut ends = Vec::new();
    for (role, texts) in
        [(roles.fim_pad, &FIM_PAD[..]), (roles.fim_rep, &FIM_REP[..]), (roles.fim_sep, &FIM_SEP[..])]
    {
        let by_text = || texts.iter().find_map(|text| vocab.find(text.as_bytes()));
        match (role, role.or_else(by_text)) {
            (None, Some(id)) => {
                vocab.set_kind(id, TokenKind::Control);
                ends.push(id);
            }
            (_, found) => ends.extend(found),
        }
    }
    for text in ENDS {
        if let Some(id) = vocab.find(text.as_bytes()) {
            if vocab.kind(id) != Some(TokenKind::Unknown) {
                vocab.set_kind(id, TokenKind::Control);
            }
            ends.push(id);
        }
    }
    ends.extend([roles.eos, roles.eot, roles.eom].into_iter().flatten());

    // Two families of vocabularies write `<|end|>` inside an answer, and one has `</s>` as plain text.
    let has = |ends: &[u32], text: &str| ends.iter().any(|&id| vocab.text(id) == Some(text.as_bytes()));
    let calls = has(&ends, "<|call|>") || has(&ends, "<|calls|>");
    let inside = calls && (has(&ends, "<|return|>") || has(&ends, "<|flush|>"));
    let plain = has(&ends, "<|tool_response>");
    for (text, kind, applies) in
        [("<|end|>", TokenKind::UserDefined, inside), ("</s>", TokenKind::Normal, plain)]
    {
        if let (true, Some(id)) = (applies, vocab.find(text.as_bytes())) {
            ends.retain(|&end| end != id);
            vocab.set_kind(id, kind);
        }
    }
    sort::by(&mut ends, &|a, b| a < b);
    ends.dedup();
    ends
}
