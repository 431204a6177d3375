//! A conversation: what was said stays in the session, and only what is new is computed.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::generation::{Speaker, memory};
use super::settings::Settings;
use crate::llm::chat::{ChatTemplate, Role};
use crate::llm::plan::SessionConfig;
use crate::llm::pool::Team;
use crate::llm::simd::Kernels;
use crate::llm::tokenizer::Special;
use crate::llm::transformer::Session;

/// Positions of a conversation at most.
const LONGEST: usize = 2048;

/// What a conversation is held with.
pub struct Chat<'c> {
    speaker: &'c Speaker<'c>,
    template: Option<ChatTemplate<'c>>,
    messages: Vec<(Role, String)>,
    /// The ids whose keys and values the session holds.
    held: Vec<u32>,
}

/// The memory of a conversation's session, and its shape.
pub fn prepare(speaker: &Speaker<'_>, team: &dyn Team) -> Result<(Vec<u8>, SessionConfig), String> {
    let context = speaker.loaded.model.shape().context_length.min(LONGEST);
    let config = SessionConfig { context, members: team.size(), ..SessionConfig::default() };
    Ok((memory(speaker.loaded, &config, false)?, config))
}

/// A session in `memory`, which [`prepare`] gave.
pub fn session<'m>(
    speaker: &'m Speaker<'_>,
    config: SessionConfig,
    kernels: &'static Kernels,
    team: &'m dyn Team,
    memory: &'m mut [u8],
) -> Result<Session<'m>, String> {
    Session::new(speaker.loaded.fastest(), config, kernels, team, memory).map_err(|error| error.to_string())
}

impl<'c> Chat<'c> {
    /// Nothing has been said yet. Without a chat template, texts are continued as they stand.
    pub fn new(speaker: &'c Speaker<'c>, settings: &Settings) -> Self {
        let template = ChatTemplate::from_gguf(&speaker.loaded.gguf).ok().filter(|_| !settings.raw);
        Chat { speaker, template, messages: Vec::new(), held: Vec::new() }
    }

    /// Whether the model takes turns; otherwise it continues the text.
    pub fn takes_turns(&self) -> bool {
        self.template.is_some()
    }

    /// Says something; the model answers on the console.
    pub fn say(&mut self, session: &mut Session<'_>, text: &str, settings: &Settings) -> Result<(), String> {
        self.messages.push((Role::User, text.to_string()));
        let said = self.answer(session, settings);
        if said.is_err() {
            // As if it had not been said.
            self.messages.pop();
        }
        said
    }

    fn answer(&mut self, session: &mut Session<'_>, settings: &Settings) -> Result<(), String> {
        let ids = self.ids()?;
        // One id at least must be computed anew, for its logits.
        let same = self.held.iter().zip(&ids).take_while(|(held, id)| held == id).count().min(ids.len() - 1);
        let context = session.config().context;
        if ids.len() >= context {
            return Err(format!(
                "the conversation has {} tokens, and there is room for {context}; leave it with /end and begin anew",
                ids.len()
            ));
        }
        session.truncate(same);
        self.held.clear();
        self.held.extend(&ids);
        let (held, mut answer) = (&mut self.held, String::new());
        let mut heard = |id: u32, text: &str| {
            held.push(id);
            answer.push_str(text);
        };
        let tokens = settings.tokens.min(context - ids.len());
        let said = self.speaker.say(session, &ids[same..], tokens, settings.sampler, &mut heard);
        // The last token picked is not in the session yet; after an error who knows.
        self.held.truncate(if said.is_ok() { session.position() } else { 0 });
        if said.is_err() {
            session.reset();
        }
        said?;
        self.messages.push((Role::Assistant, answer));
        Ok(())
    }

    /// The whole conversation as the model wants it.
    fn ids(&self) -> Result<Vec<u32>, String> {
        let tokenizer = &self.speaker.loaded.tokenizer;
        let ids = match &self.template {
            Some(template) => {
                let messages: Vec<_> =
                    self.messages.iter().map(|(role, text)| (*role, text.as_str())).collect();
                tokenizer.encode_to_vec(&template.render(&messages), Special::Parse)
            }
            None => {
                let text: String = self.messages.iter().map(|(_, text)| text.as_str()).collect();
                tokenizer.encode_to_vec(&text, Special::Plain)
            }
        };
        let ids = ids.map_err(|error| format!("what was said: {error}"))?;
        Ok(tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect())
    }
}
