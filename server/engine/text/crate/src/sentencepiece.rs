//! A SentencePiece model file (tokenizer.model): the parts of its protobuf message that a tokenizer needs.

use crate::failure::{Failure, Kind};

/// Pieces of this type are found in text before the model sees it.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

pub const UNIGRAM: u64 = 1;
pub const BPE: u64 = 2;

pub struct Piece {
    pub text: String,
    pub score: f32,
    kind: u64,
}

impl Piece {
    pub fn is_added(&self) -> bool {
        self.is_special() || self.kind == USER_DEFINED
    }

    pub fn is_special(&self) -> bool {
        self.kind == CONTROL
    }
}

pub struct SentencePiece {
    pub pieces: Vec<Piece>,
    /// UNIGRAM, BPE or another number.
    pub model_type: u64,
    pub byte_fallback: bool,
    pub unk_id: u64,
    pub unk_piece: String,
    /// Absent where the id is negative.
    pub bos_piece: Option<String>,
    pub eos_piece: Option<String>,
    /// The normalizer's table; may be empty.
    pub charsmap: Vec<u8>,
}

fn broken(message: &str) -> Failure {
    Failure::new(
        Kind::BrokenFile,
        format!("the SentencePiece model {message}"),
    )
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of one protobuf message, in their order.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        if count > self.rest.len() {
            return Err(broken("is cut"));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Failure> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(broken("has a number of more than 64 bits"))
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Failure> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            _ => return Err(broken("has a field of an unknown wire type")),
        };
        Ok(Some((tag >> 3, field)))
    }
}

fn text(bytes: &[u8]) -> Result<String, Failure> {
    String::from_utf8(bytes.to_vec()).map_err(|_| broken("has a piece that is not UTF-8"))
}

fn read_piece(bytes: &[u8]) -> Result<Piece, Failure> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: 1,
    };
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(bytes)) => piece.text = text(bytes)?,
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Ok(piece)
}

impl SentencePiece {
    /// Reads a whole file.
    pub fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: UNIGRAM,
            byte_fallback: false,
            unk_id: 0,
            unk_piece: "<unk>".into(),
            bos_piece: Some("<s>".into()),
            eos_piece: Some("</s>".into()),
            charsmap: Vec::new(),
        };
        let mut fields = Fields { rest: bytes };
        while let Some(field) = fields.next()? {
            match field {
                (1, Field::Bytes(bytes)) => model.pieces.push(read_piece(bytes)?),
                (2, Field::Bytes(bytes)) => model.read_trainer(bytes)?,
                (3, Field::Bytes(bytes)) => model.read_normalizer(bytes)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(broken("has no pieces"));
        }
        Ok(model)
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut fields = Fields { rest: bytes };
        let mut has_bos = true;
        let mut has_eos = true;
        while let Some(field) = fields.next()? {
            match field {
                (3, Field::Number(number)) => self.model_type = number,
                (35, Field::Number(number)) => self.byte_fallback = number != 0,
                (40, Field::Number(number)) => self.unk_id = number,
                // Negative numbers are written as 64 bits.
                (41, Field::Number(number)) => has_bos = (number as i64) >= 0,
                (42, Field::Number(number)) => has_eos = (number as i64) >= 0,
                (45, Field::Bytes(bytes)) => self.unk_piece = text(bytes)?,
                (46, Field::Bytes(bytes)) => self.bos_piece = Some(text(bytes)?),
                (47, Field::Bytes(bytes)) => self.eos_piece = Some(text(bytes)?),
                _ => {}
            }
        }
        self.bos_piece.take_if(|_| !has_bos);
        self.eos_piece.take_if(|_| !has_eos);
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut fields = Fields { rest: bytes };
        while let Some(field) = fields.next()? {
            if let (2, Field::Bytes(bytes)) = field {
                self.charsmap = bytes.to_vec();
            }
        }
        Ok(())
    }
}
