//! One event of a stream of completions.

use serde_json::Value;

/// What an event says of the one answer that was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// New text; may be empty.
    pub text: String,
    /// Ids of the new tokens, where the server tells them.
    pub ids: Option<Vec<u32>>,
    /// Why the answer is over, in the server's word.
    pub finish: Option<String>,
    /// Counts, once, at the end.
    pub usage: Option<Usage>,
}

/// Counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Ids of the prompt.
    pub prompt: u64,
    /// Ids generated.
    pub completion: u64,
    /// Ids of the prompt that were not computed because an earlier request had them.
    pub cached: u64,
}

impl Chunk {
    /// Reads the data of an event. An object with `error` is the server's refusal.
    pub fn parse(data: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(data)
            .map_err(|error| format!("the server sent no JSON ({error}): {}", short(data)))?;
        if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
            let message = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            return Err(format!("the server says: {message}"));
        }
        let usage = value.get("usage").filter(|usage| usage.is_object()).map(|usage| Usage {
            prompt: usage["prompt_tokens"].as_u64().unwrap_or(0),
            completion: usage["completion_tokens"].as_u64().unwrap_or(0),
            cached: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
        });
        let Some(choice) = value["choices"].get(0) else {
            return match usage {
                Some(_) => Ok(Chunk { usage, ..Chunk::default() }),
                None => Err(format!("the server sent no completion: {}", short(data))),
            };
        };
        Ok(Chunk {
            text: choice["text"].as_str().unwrap_or_default().to_owned(),
            ids: ids(choice),
            finish: choice["finish_reason"].as_str().map(str::to_owned),
            usage,
        })
    }
}

/// Ids as servers tell them: `token_ids` of vLLM, `logprobs.content[].id` of llama.cpp, `logprobs.tokens` of words such
/// as `token_id:17`.
fn ids(choice: &Value) -> Option<Vec<u32>> {
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    if let Some(ids) = choice["token_ids"].as_array() {
        return ids.iter().map(number).collect();
    }
    if let Some(tokens) = choice["logprobs"]["content"].as_array() {
        return tokens.iter().map(|token| number(&token["id"])).collect();
    }
    let word = |value: &Value| value.as_str()?.strip_prefix("token_id:")?.parse().ok();
    choice["logprobs"]["tokens"].as_array()?.iter().map(word).collect()
}

/// The beginning of what a server said.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_where_servers_put_them() {
        let of = |choice: &str| Chunk::parse(&format!(r#"{{"choices":[{choice}]}}"#)).unwrap();
        let vllm = of(r#"{"text":" a","token_ids":[5,6],"finish_reason":null}"#);
        assert_eq!((vllm.ids, vllm.finish), (Some(vec![5, 6]), None));
        let llama =
            of(r#"{"text":",","logprobs":{"content":[{"id":28,"token":","}]},"finish_reason":"length"}"#);
        assert_eq!((llama.ids, llama.finish.as_deref()), (Some(vec![28]), Some("length")));
        assert_eq!(of(r#"{"text":"x","logprobs":{"tokens":["token_id:17"]}}"#).ids, Some(vec![17]));
        // Pieces instead of ids, an id that is none, nothing.
        for silent in [
            r#"{"text":"x","logprobs":{"tokens":["x"]}}"#,
            r#"{"token_ids":[-1]}"#,
            r#"{"text":"x","logprobs":null}"#,
        ] {
            assert_eq!(of(silent).ids, None, "{silent}");
        }
    }

    #[test]
    fn counts_come_with_or_without_a_choice() {
        let usage = r#""usage":{"prompt_tokens":4,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}"#;
        let expected = Some(Usage { prompt: 4, completion: 3, cached: 2 });
        assert_eq!(Chunk::parse(&format!(r#"{{"choices":[],{usage}}}"#)).unwrap().usage, expected);
        let both = Chunk::parse(&format!(r#"{{"choices":[{{"text":"z","finish_reason":"stop"}}],{usage}}}"#))
            .unwrap();
        assert_eq!((both.usage, both.text.as_str()), (expected, "z"));
        let absent = r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3,"prompt_tokens_details":null}}"#;
        assert_eq!(Chunk::parse(absent).unwrap().usage.unwrap().cached, 0);
    }

    #[test]
    fn what_is_no_completion_is_told() {
        for (data, part) in [
            ("{", "no JSON"),
            ("{}", "no completion"),
            (r#"{"choices":[],"usage":null}"#, "no completion"),
            (r#"{"error":{"message":"too long","code":400}}"#, "too long"),
            (r#"{"error":"down"}"#, "down"),
        ] {
            assert!(Chunk::parse(data).unwrap_err().contains(part), "{data}");
        }
        assert!(Chunk::parse(&"é".repeat(1000)).unwrap_err().len() < 800);
    }
}
