//! Chat templates, recognised from the file.
//!
//! A GGUF carries its template as a Jinja program (`tokenizer.chat_template`). We do not run programs from files: a
//! known family is recognised by its marks and rendered here; an unknown one is an error that names the choices.

use alloc::string::String;
use core::fmt;

use super::gguf::Gguf;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// The families that can be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `<|im_start|>role … <|im_end|>` (SmolLM2, Qwen 2).
    ChatMl,
    /// `<|start_header_id|>role<|end_header_id|> … <|eot_id|>` (Llama 3).
    Llama3,
}

/// Why a conversation cannot be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatError {
    /// The file has no template: it is a base model.
    NoTemplate,
    /// The template is of no known family.
    Unknown,
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTemplate => f.write_str("the model has no chat template (a base model); use a raw prompt"),
            Self::Unknown => f.write_str(
                "the model's chat template is not one of the known families (ChatML, Llama 3); use a raw prompt",
            ),
        }
    }
}

impl core::error::Error for ChatError {}

/// How this model's conversations are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatTemplate<'a> {
    /// The family.
    pub family: Family,
    /// What the template says as the system if the conversation does not begin with that.
    pub default_system: Option<&'a str>,
}

const CHATML_SYSTEM: &str = "<|im_start|>system\n";

impl<'a> ChatTemplate<'a> {
    /// Recognises the file's template.
    pub fn from_gguf(gguf: &Gguf<'a>) -> Result<Self, ChatError> {
        match gguf.get_str("tokenizer.chat_template") {
            Ok(Some(program)) => Self::recognise(program),
            Ok(None) => Err(ChatError::NoTemplate),
            Err(_) => Err(ChatError::Unknown),
        }
    }

    /// Recognises a template's family by its marks.
    pub fn recognise(program: &'a str) -> Result<Self, ChatError> {
        if program.contains("<|im_start|>") {
            // A literal default lies in the program as '<|im_start|>system\nTEXT<|im_end|>', the newline escaped or not.
            let after = ["<|im_start|>system\\n", CHATML_SYSTEM]
                .iter()
                .find_map(|start| program.split_once(start).map(|(_, after)| after));
            let default_system = after
                .and_then(|text| text.split_once("<|im_end|>"))
                .map(|(text, _)| text)
                .filter(|text| !text.is_empty() && !text.contains(['\'', '{', '"']));
            Ok(ChatTemplate { family: Family::ChatMl, default_system })
        } else if program.contains("<|start_header_id|>") {
            Ok(ChatTemplate { family: Family::Llama3, default_system: None })
        } else {
            Err(ChatError::Unknown)
        }
    }

    /// Writes a conversation and the opening of the assistant's answer. Parse special tokens when encoding it.
    ///
    /// The begin-of-text token is not written: encoding adds it where the model asks for it.
    pub fn render(&self, messages: &[(Role, &str)]) -> String {
        let mut text = String::new();
        if let (Some(system), true) =
            (self.default_system, messages.first().is_none_or(|(role, _)| *role != Role::System))
        {
            self.message(&mut text, Role::System, system);
        }
        for (role, content) in messages {
            self.message(&mut text, *role, content);
        }
        text.push_str(match self.family {
            Family::ChatMl => "<|im_start|>assistant\n",
            Family::Llama3 => "<|start_header_id|>assistant<|end_header_id|>\n\n",
        });
        text
    }

    fn message(&self, text: &mut String, role: Role, content: &str) {
        let (open, middle, close) = match self.family {
            Family::ChatMl => ("<|im_start|>", "\n", "<|im_end|>\n"),
            Family::Llama3 => ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
        };
        // Llama 3's own template trims what is said.
        let content = if self.family == Family::Llama3 { content.trim() } else { content };
        for part in [open, role.name(), middle, content, close] {
            text.push_str(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatml_takes_the_default_system_from_the_template() {
        let program = "{% if loop.first %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}";
        let template = ChatTemplate::recognise(program).unwrap();
        assert_eq!(
            template.render(&[(Role::User, "Hi")]),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            template.render(&[(Role::System, "S"), (Role::User, "Hi")]),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_computed_system_is_not_taken_for_a_literal() {
        let program = "{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>' }}";
        assert_eq!(ChatTemplate::recognise(program).unwrap().default_system, None);
    }

    #[test]
    fn llama3_is_rendered_with_headers() {
        let template = ChatTemplate::recognise("{{ '<|start_header_id|>' + role }}").unwrap();
        assert_eq!(
            template.render(&[(Role::User, " Hi ")]),
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        );
    }

    #[test]
    fn an_unknown_template_names_the_choices() {
        let error = ChatTemplate::recognise("{{ '### Instruction' }}").unwrap_err();
        assert!(alloc::format!("{error}").contains("ChatML, Llama 3"));
    }
}
