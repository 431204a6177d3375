//! How far an engine's answers are from exact arithmetic on the same weights.
//!
//! Fast and wrong is not fast. Where an engine gives logits, its predictions behind every id of a text are compared with
//! those of F32 arithmetic by their divergence; where it does not, by the token it chooses wherever exact arithmetic is clear
//! about it. Generated tokens are judged by how much less likely than the likeliest they are.

use barelm_protocol::{Expected, Load, Reply, Request, Score, Submit};

use super::models::{Subject, with_exact};
use super::process::{Process, Trouble, unexpected};
use super::record::{AnswerCheck, EngineId, Quality};

/// Tokens that engines are asked to name at each position.
const TOP: usize = 512;
/// Nats between the likeliest two tokens from which on a choice is clear: rounding to 8 bits moves logits by a tenth of that.
const CLEAR: f64 = 1.0;
/// Positions at which an engine without logits is asked for its choice.
const ASKED: usize = 12;
/// Generated tokens may be this many nats less likely than the likeliest, on average. Right answers of 4-bit weights
/// stay below a tenth of it; one wrong operation anywhere gives ten times as much.
const WORST_GAP: f64 = 0.5;
/// Divergence, in nats, above which predictions are another model's.
const WORST_KL: f64 = 0.5;
/// Share of clear choices that may be others.
const WORST_SHARE: f64 = 0.2;

/// What an engine said of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// What it expects behind each id.
    Expected(Vec<Expected>),
    /// What it chooses behind the first so many ids.
    Chosen(Vec<(usize, u32)>),
}

/// Asks an engine that has loaded the model for one sequence.
pub fn ask(process: &mut Process, subject: &Subject) -> Result<Said, Trouble> {
    let patience = std::time::Duration::from_secs(300);
    if process.hello().logits {
        let request = Request::Logits(Score { id: 0, ids: subject.text.clone(), top: TOP });
        return match process.ask(&request, patience)? {
            Reply::Logits(logits) if logits.positions.len() == subject.text.len() => {
                Ok(Said::Expected(logits.positions))
            }
            Reply::Logits(logits) => Err(Trouble::Failed(format!(
                "{} positions of logits for {} ids",
                logits.positions.len(),
                subject.text.len()
            ))),
            other => Err(unexpected("logits", &other)),
        };
    }
    let step = (subject.text.len() / ASKED).max(1);
    let mut chosen = Vec::new();
    for (id, behind) in (step..=subject.text.len()).step_by(step).enumerate() {
        let prompt_ids = subject.text[..behind].to_vec();
        let id = id as u64;
        process.tell(&Request::Submit(Submit {
            id,
            prompt_ids,
            max_tokens: 1,
            ignore_eos: true,
            stream: false,
        }))?;
        loop {
            match process.hear_answer()?.1 {
                Reply::Token { id: of, .. } if of == id => {}
                Reply::Done(done) if done.id == id && done.ids.len() == 1 => {
                    chosen.push((behind, done.ids[0]));
                    break;
                }
                other => return Err(unexpected("token or done", &other)),
            }
        }
    }
    Ok(Said::Chosen(chosen))
}

/// Room for what [`ask`] asks.
pub fn load(subject: &Subject, threads: usize) -> Load {
    let context = (subject.text.len() + 1).next_multiple_of(64);
    Load { model: subject.path.clone(), threads, context, ..Load::default() }
}

/// Judges what engines said of a model, and those of their answers that are given: prompt and generated ids.
pub fn judge(
    subject: &Subject,
    original: Option<&Subject>,
    threads: usize,
    said: &[(EngineId, Result<Said, String>)],
    answers: &mut [(AnswerCheck, Vec<u32>)],
) -> Vec<Quality> {
    let longest = answers.iter().map(|(check, prompt)| prompt.len() + check.ids.len()).max();
    let longest = longest.unwrap_or(0).max(subject.text.len());
    let exact = with_exact(subject, threads, longest, |forward| {
        for (check, prompt) in answers.iter_mut() {
            let ids: Vec<u32> = prompt.iter().chain(&check.ids).copied().collect();
            let logits = forward(&ids[..ids.len() - 1])?;
            let rows = logits.chunks(subject.vocab_size).skip(prompt.len() - 1);
            let gaps: Vec<f64> = rows.zip(&check.ids).map(|(row, &id)| gap(row, id)).collect();
            check.set(gaps, WORST_GAP);
        }
        forward(&subject.text)
    });
    let exact = exact.map_err(|failure| failure.to_string());
    let quantization_kl = original.and_then(|original| {
        let exact = exact.as_ref().ok()?;
        let before =
            with_exact(original, threads, subject.text.len(), |forward| forward(&subject.text)).ok()?;
        let rows = before.chunks(subject.vocab_size).zip(exact.chunks(subject.vocab_size));
        let all: Vec<f64> = rows.map(|(before, after)| full_kl(before, after)).collect();
        Some(mean(&all))
    });
    let each = said.iter().map(|(engine, said)| {
        let mut quality = Quality {
            engine: engine.clone(),
            model: subject.id.clone(),
            ids: subject.text.clone(),
            kl: None,
            kl_samples: Vec::new(),
            top1_wrong: None,
            quantization_kl,
            missing: None,
            wrong: None,
        };
        match (said, &exact) {
            (Err(why), _) => quality.missing = Some(why.clone()),
            (_, Err(why)) => quality.missing = Some(why.clone()),
            (Ok(said), Ok(exact)) => weigh(&mut quality, said, exact, subject.vocab_size),
        }
        quality
    });
    each.collect()
}

fn weigh(quality: &mut Quality, said: &Said, exact: &[f32], vocab_size: usize) {
    let row = |position: usize| &exact[position * vocab_size..(position + 1) * vocab_size];
    let chosen: Vec<(usize, u32)> = match said {
        Said::Expected(positions) => {
            quality.kl_samples = positions.iter().enumerate().map(|(at, said)| kl(row(at), said)).collect();
            quality.kl = Some(mean(&quality.kl_samples));
            let first = |(at, said): (usize, &Expected)| said.ids.first().map(|&id| (at + 1, id));
            positions.iter().enumerate().filter_map(first).collect()
        }
        Said::Chosen(chosen) => {
            quality.missing = Some("divergence: not exposed, this engine gives no logits".into());
            chosen.clone()
        }
    };
    let clear: Vec<bool> = chosen
        .iter()
        .filter_map(|&(behind, id)| {
            let (best, margin) = clearest(row(behind - 1));
            (margin > CLEAR).then_some(id != best)
        })
        .collect();
    let wrong = clear.iter().filter(|&&wrong| wrong).count();
    quality.top1_wrong = Some((wrong, clear.len()));
    quality.wrong = match quality.kl {
        Some(kl) if kl.is_nan() || kl > WORST_KL => {
            Some(format!("wrong predictions: {kl:.2} nats from exact arithmetic"))
        }
        _ if clear.len() >= 4 && wrong as f64 > WORST_SHARE * clear.len() as f64 => {
            Some(format!("wrong choices: {wrong} of {} clear ones", clear.len()))
        }
        _ => None,
    };
}

/// By how many nats a token is less likely than the likeliest.
fn gap(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    logits.get(id as usize).map_or(f64::INFINITY, |&logit| f64::from(most - logit))
}

/// The likeliest token and by how many nats it is so.
fn clearest(logits: &[f32]) -> (u32, f64) {
    let two = Expected::of(logits, 2);
    (two.ids[0], two.logprobs[0] - two.logprobs.get(1).copied().unwrap_or(f64::NEG_INFINITY))
}

/// Logarithms of probabilities.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit - most))).sum();
    logits.iter().map(|&logit| f64::from(logit - most) - libm::log(sum)).collect()
}

/// Kullback-Leibler divergence of what an engine expects from exact logits, in nats. Tokens that it does not name count as
/// one, which can only lessen the divergence.
fn kl(exact: &[f32], said: &Expected) -> f64 {
    let exact = log_softmax(exact);
    let (mut named, mut sum) = (0.0, 0.0);
    for (&id, &q) in said.ids.iter().zip(&said.logprobs) {
        let Some(&p) = exact.get(id as usize) else { return f64::INFINITY };
        named += libm::exp(p);
        sum += libm::exp(p) * (p - q);
    }
    let rest = (1.0 - named).max(0.0);
    if rest > 1e-12 {
        sum += rest * (libm::log(rest) - libm::log(said.rest.max(1e-12)));
    }
    sum.max(0.0)
}

/// The same of two sets of logits.
fn full_kl(before: &[f32], after: &[f32]) -> f64 {
    let (p, q) = (log_softmax(before), log_softmax(after));
    p.iter().zip(&q).map(|(&p, &q)| libm::exp(p) * (p - q)).sum::<f64>().max(0.0)
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

/// The model that another one was made from: of the same weights and vocabulary, in F32 or else 16 bits.
pub fn original<'s>(subjects: &'s [Subject], of: &Subject) -> Option<&'s Subject> {
    let stem = |subject: &Subject| subject.id.name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let same = |other: &&Subject| {
        other.id.sha256 != of.id.sha256
            && other.vocab_size == of.vocab_size
            && stem(other).is_some()
            && stem(other) == stem(of)
    };
    let find = |class: &str| subjects.iter().filter(same).find(|other| other.id.class == class);
    if ["f32", "16-bit"].contains(&of.id.class.as_str()) {
        None
    } else {
        find("f32").or_else(|| find("16-bit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_of_the_same_and_grows_with_the_difference() {
        let exact = [1.0f32, 3.0, 0.5, -2.0];
        assert!(kl(&exact, &Expected::of(&exact, 4)) < 1e-12);
        // Named or not, what is the same adds nothing.
        assert!(kl(&exact, &Expected::of(&exact, 2)) < 1e-9);
        let near = kl(&exact, &Expected::of(&[1.1, 3.0, 0.5, -2.0], 4));
        let far = kl(&exact, &Expected::of(&[3.0, 1.0, 0.5, -2.0], 4));
        assert!(0.0 < near && near < 0.01 && far > 0.5, "{near} {far}");
        // By hand: p = (3/4, 1/4), q = (1/2, 1/2).
        let p = [libm::log(3.0) as f32, 0.0];
        let right = 0.75 * libm::log(1.5) + 0.25 * libm::log(0.5);
        assert!((kl(&p, &Expected::of(&[0.0, 0.0], 2)) - right).abs() < 1e-6);
        assert!((full_kl(&p, &[0.0, 0.0]) - right).abs() < 1e-6);
        // Fewer named tokens can only lessen it.
        assert!(kl(&exact, &Expected::of(&[3.0, 1.0, 0.5, -2.0], 1)) <= far + 1e-9);
        assert!(kl(&exact, &Expected { ids: vec![9], logprobs: vec![0.0], rest: 0.0 }).is_infinite());
    }

    #[test]
    fn gaps_and_margins_are_of_the_likeliest() {
        assert_eq!(gap(&[1.0, 4.0, 2.0], 2), 2.0);
        assert_eq!(gap(&[1.0, 4.0, 2.0], 1), 0.0);
        assert!(gap(&[1.0], 5).is_infinite());
        let (best, margin) = clearest(&[1.0, 4.0, 2.0]);
        assert!(best == 1 && (margin - 2.0).abs() < 1e-6);
    }
}
