//! What a model's tokens take of the machine at least: what a speed is held against.

use barelm::llm::gguf::Gguf;
use barelm::llm::model::Shape;

/// Bytes read and operations computed by a model's passes. A multiplication and an addition are two operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Operations of a position on the layers' quantized and on their float matrices.
    layers: [f64; 2],
    /// The same of the head, where logits are wanted.
    head: [f64; 2],
    /// Operations of attention between a position and one that it sees, all layers.
    attention: f64,
    /// Bytes of all matrices that a token goes through, the head included.
    pub matrix_bytes: f64,
    /// Bytes of one position's keys and values, all layers.
    kv_bytes: f64,
}

impl Demand {
    /// That of a file's model, which has this shape.
    pub fn of(gguf: &Gguf<'_>, shape: &Shape) -> Self {
        let head = if gguf.tensor("output.weight").is_some() { "output.weight" } else { "token_embd.weight" };
        let mut demand = Demand {
            layers: [0.0; 2],
            head: [0.0; 2],
            attention: (4 * shape.q_dim() * shape.n_layers) as f64,
            matrix_bytes: 0.0,
            kv_bytes: (shape.n_layers * shape.kv_dim() * 2 * 2) as f64,
        };
        for tensor in gguf.tensors().filter(|tensor| tensor.n_dims == 2) {
            let operations = match tensor.name {
                name if name == head => &mut demand.head,
                name if name.starts_with("blk.") => &mut demand.layers,
                _ => continue,
            };
            let kind = usize::from(!tensor.ty.is_quantized());
            operations[kind] += 2.0 * (tensor.dims[0] * tensor.dims[1]) as f64;
            demand.matrix_bytes += tensor.size_bytes as f64;
        }
        demand
    }

    /// Weights that a token is multiplied with.
    pub fn elements(&self) -> u64 {
        // Whole numbers far below 2^53.
        (self.layers.iter().chain(&self.head).sum::<f64>() / 2.0) as u64
    }

    /// Whether the layers have quantized matrices, so that 8-bit products are the limit of a prompt.
    pub fn is_quantized(&self) -> bool {
        self.layers[0] > 0.0
    }

    /// Operations of a token of a prompt of `tokens` behind `depth` positions: those to hold against the peak of 8-bit
    /// products, and those against that of f32. The head counts once a prompt; attention, to all positions that are seen,
    /// counts as the layers' matrices do, whatever it is computed in.
    pub fn prompt_operations(&self, tokens: usize, depth: usize) -> [f64; 2] {
        let mut operations = [0, 1].map(|kind| self.layers[kind] + self.head[kind] / tokens as f64);
        operations[usize::from(!self.is_quantized())] += self.attention * seen(tokens, depth);
        operations
    }

    /// Bytes of a generated token, the mean of `tokens` behind `depth` positions: every matrix once, and keys and values of
    /// all positions that it sees.
    pub fn token_bytes(&self, tokens: usize, depth: usize) -> f64 {
        self.matrix_bytes + self.kv_bytes * seen(tokens, depth)
    }
}

/// Positions that each of `tokens` behind `depth` others sees, itself included, on the average.
fn seen(tokens: usize, depth: usize) -> f64 {
    depth as f64 + (tokens as f64 + 1.0) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_needs_its_matrices_once_and_what_it_sees() {
        let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/assets/tiny.gguf")).unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        let shape = Shape::from_gguf(&gguf).unwrap();
        let demand = Demand::of(&gguf, &shape);
        let per_layer = 2 * shape.dim * (shape.q_dim() + shape.kv_dim()) + 3 * shape.dim * shape.ffn_dim;
        let kind = usize::from(!demand.is_quantized());
        assert_eq!(demand.layers[kind], (2 * shape.n_layers * per_layer) as f64);
        assert_eq!(demand.head.iter().sum::<f64>(), (2 * shape.dim * shape.vocab_size) as f64);
        let all = |tokens, depth| demand.prompt_operations(tokens, depth).iter().sum::<f64>();
        // One position attends to itself; the second of two to both; the head is there once.
        let pair = (4 * shape.q_dim() * shape.n_layers) as f64;
        let head = demand.head.iter().sum::<f64>();
        assert_eq!(all(1, 0), demand.layers[kind] + head + pair);
        assert_eq!(2.0 * all(2, 10), 2.0 * demand.layers[kind] + head + (11.0 + 12.0) * pair);
        assert_eq!(demand.elements(), (shape.n_layers * per_layer + shape.dim * shape.vocab_size) as u64);
        let position = (shape.n_layers * shape.kv_dim() * 4) as f64;
        assert_eq!(demand.token_bytes(3, 5), demand.matrix_bytes + 7.0 * position);
    }
}
