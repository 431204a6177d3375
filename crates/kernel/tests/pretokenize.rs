//! Pre-tokenizers against PyPI `tokenizers` (`data/pretokenize.txt`, made by `tools/references/pretokenize.py`).

use barelm::llm::tokenizer::PreTokenizer;

const FIXTURE: &str = include_str!("data/pretokenize.txt");

fn lengths(pre: PreTokenizer, text: &str) -> impl Iterator<Item = usize> {
    pre.words(text).map(str::len)
}

/// `%XX` is a byte, everything else itself.
fn unescaped(shown: &str) -> String {
    let mut bytes = Vec::new();
    let mut parts = shown.split('%');
    bytes.extend(parts.next().unwrap().bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}

/// The script's `around(code)`.
fn around(code: u32) -> String {
    let mut text = String::new();
    for code in [code.checked_sub(1), Some(code)] {
        let c = code.map_or(String::new(), |code| char::from_u32(code).unwrap().to_string());
        text += &format!("a{c}b1{c}2 {c} {c}{c} .{c}. \n{c}\n'{c}{c}s  {c}");
    }
    text
}

fn fnv(numbers: impl Iterator<Item = usize>) -> u64 {
    numbers.flat_map(|number| (number as u32).to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[test]
fn words_are_those_of_the_original_tokenizers() {
    let mut lines = FIXTURE.lines().filter(|line| !line.starts_with("# "));
    let (mut texts, mut boundaries, mut wrong) = (0, 0, Vec::new());
    while let Some(line) = lines.next() {
        let (kind, subject) = line.split_once(' ').unwrap_or((line, ""));
        for _ in 0..5 {
            let (name, expected) = lines.next().unwrap().split_once(' ').unwrap_or(("", ""));
            // An empty text has no words, and so its lines hold names alone.
            let Some(pre) = PreTokenizer::from_name(name).filter(|_| !name.is_empty()) else {
                assert_eq!(subject, "");
                continue;
            };
            if kind == "text" {
                let text = unescaped(subject);
                let expected: Vec<usize> = expected.split(' ').map(|n| n.parse().unwrap()).collect();
                let ours: Vec<usize> = lengths(pre, &text).collect();
                if ours != expected {
                    wrong.push(format!("{name} of {text:?}: {ours:?}, not {expected:?}"));
                }
            } else {
                assert_eq!(kind, "boundaries");
                let codes = subject.split(' ').map(|code| u32::from_str_radix(code, 16).unwrap());
                let ours = fnv(codes.flat_map(|code| lengths(pre, &around(code)).collect::<Vec<_>>()));
                if format!("{ours:016x}") != expected {
                    wrong.push(format!("{name} at one of {subject}"));
                }
            }
        }
        match kind {
            "text" => texts += 1,
            _ => boundaries += subject.split(' ').count(),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(texts >= 400 && boundaries >= 3000, "{texts} texts, {boundaries} boundaries");
}

#[test]
fn words_put_together_are_the_text() {
    let mut state = 1u64;
    for _ in 0..2000 {
        let mut text = String::new();
        for _ in 0..40 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let pool = [
                ' ', '\n', '\r', '\'', 's', 'l', '1', '²', '٣', '.', '$', 'é', '你', '😀', '\u{301}',
                '\u{a0}',
            ];
            text.push(pool[(state >> 60) as usize]);
        }
        for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"] {
            let pre = PreTokenizer::from_name(pre).unwrap();
            assert!(pre.words(&text).all(|word| !word.is_empty()));
            assert_eq!(pre.words(&text).collect::<String>(), text);
        }
    }
}
