//! The wafer as a PNG picture: one pixel per PE, regions coloured by layer, dead tiles marked.
//!
//! No text and no arrows: [`super::svg`] has those. Large machines are reduced by a whole factor so that no
//! side exceeds `SIDE_MAX`. The encoder writes indexed colours as one deflate block of fixed codes with
//! runs; that suits rectangles (a wafer of 900,000 PEs takes about 10 KB) and needs no library.

use plan::Plan;

use super::figures;
use super::palette::{Rgb, region_colors};

/// Most pixels of a side.
const SIDE_MAX: u32 = 8192;

/// Index of what is not on any wafer, of free PEs, of borders of regions, of dead PEs.
const OUTSIDE: u8 = 0;
const FREE: u8 = 1;
const BORDER: u8 = 2;
const DEAD: u8 = 3;
const FIRST_REGION: u8 = 4;
/// Colours left for regions.
const SHADES: usize = 252;

/// The map of `plan` as the bytes of a PNG file.
pub fn png(plan: &Plan) -> Vec<u8> {
    let machine = figures::machine(plan);
    let factor = machine.w.max(machine.h).div_ceil(SIDE_MAX).max(1);
    let (w, h) = (machine.w.div_ceil(factor) as usize, machine.h.div_ceil(factor) as usize);
    let mut pixels = vec![FREE; w * h];
    let mut colors = vec![(246, 245, 242), (226, 223, 215), (255, 255, 255), (192, 20, 60)];
    let mut fill = |x: u32, y: u32, fw: u32, fh: u32, index: u8| {
        let end = |from: u32, n: u32, limit: usize| {
            (from.saturating_add(n).div_ceil(factor) as usize).min(limit)
        };
        for row in (y / factor) as usize..end(y, fh, h) {
            let from = ((x / factor) as usize).min(w);
            let to = end(x, fw, w).max(from);
            pixels[row * w + from..row * w + to].fill(index);
        }
    };
    let paint = region_colors(plan);
    for (i, region) in plan.regions.iter().enumerate() {
        // With more regions than shades, neighbours along the way share one.
        let shade = i * SHADES / plan.regions.len().max(SHADES);
        if colors.len() <= usize::from(FIRST_REGION) + shade {
            colors.push(paint[i]);
        }
        let r = region.rect;
        fill(r.x, r.y, r.w, r.h, BORDER);
        let index = FIRST_REGION + shade as u8;
        fill(r.x, r.y, r.w.saturating_sub(factor), r.h.saturating_sub(factor), index);
    }
    for (x, y) in figures::dead(plan) {
        fill(x, y, 1, 1, DEAD);
    }
    for k in 1..plan.target.wafers {
        fill(k.saturating_mul(plan.target.width), 0, 1, machine.h, OUTSIDE);
    }
    encode(w, h, &pixels, &colors)
}

/// An indexed PNG of `w` x `h` pixels, row by row.
fn encode(w: usize, h: usize, pixels: &[u8], colors: &[Rgb]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend_from_slice(&(w as u32).to_be_bytes());
    header.extend_from_slice(&(h as u32).to_be_bytes());
    // 8 bits, indexed, deflate, adaptive filters, not interlaced.
    header.extend_from_slice(&[8, 3, 0, 0, 0]);
    chunk(&mut out, *b"IHDR", &header);
    let palette: Vec<u8> = colors.iter().flat_map(|c| [c.0, c.1, c.2]).collect();
    chunk(&mut out, *b"PLTE", &palette);
    // Filter "up": a row like the one above is a row of zeros.
    let mut rows = Vec::with_capacity((w + 1) * h);
    for y in 0..h {
        rows.push(2);
        for x in 0..w {
            let above = if y == 0 { 0 } else { pixels[(y - 1) * w + x] };
            rows.push(pixels[y * w + x].wrapping_sub(above));
        }
    }
    chunk(&mut out, *b"IDAT", &zlib(&rows));
    chunk(&mut out, *b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(&kind);
    out.extend_from_slice(data);
    let crc = crc32(&out[start..]);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// CRC-32 of ISO 3309, as PNG wants it.
fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg()))
    };
    !data.iter().fold(!0, step)
}

/// Bits in the order of deflate: lowest first.
#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, n: u32) {
        self.held |= value << self.count;
        self.count += n;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// A fixed Huffman code (RFC 1951, 3.2.6): highest bit first.
    fn symbol(&mut self, symbol: u32) {
        let (code, n) = match symbol {
            0..=143 => (0x30 + symbol, 8),
            144..=255 => (0x190 + symbol - 144, 9),
            256..=279 => (symbol - 256, 7),
            _ => (0xC0 + symbol - 280, 8),
        };
        self.put(code.reverse_bits() >> (32 - n), n);
    }
}

impl Bits {
    /// The byte before, `length` (3 to 258) times more: RFC 1951, 3.2.5.
    fn repeat(&mut self, length: u32) {
        let over = length - 3;
        match over {
            255 => self.symbol(285),
            0..=7 => self.symbol(257 + over),
            _ => {
                let extra = over.ilog2() - 2;
                self.symbol(257 + 4 * (extra + 1) + (over >> extra & 3));
                self.put(over & ((1 << extra) - 1), extra);
            }
        }
        // Distance 1: five zero bits.
        self.put(0, 5);
    }
}

/// A zlib stream (RFC 1950) of one fixed block, in which bytes repeat as matches of distance 1.
fn zlib(data: &[u8]) -> Vec<u8> {
    let mut bits = Bits { out: vec![0x78, 0x01], ..Bits::default() };
    bits.put(0b011, 3);
    let mut at = 0;
    while at < data.len() {
        let byte = data[at];
        let run = data[at..].iter().take_while(|&&b| b == byte).count();
        bits.symbol(byte.into());
        let mut left = run - 1;
        while left >= 3 {
            let length = left.min(258);
            bits.repeat(length as u32);
            left -= length;
        }
        (0..left).for_each(|_| bits.symbol(byte.into()));
        at += run;
    }
    bits.symbol(256);
    bits.put(0, 7);
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in data {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    bits.out.extend_from_slice(&(b << 16 | a).to_be_bytes());
    bits.out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inflates what [`zlib`] writes: fixed codes, literals and matches of distance 1.
    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut at = 16 + 3;
        let mut bit = || {
            at += 1;
            u32::from(stream[(at - 1) / 8] >> ((at - 1) % 8) & 1)
        };
        let mut out: Vec<u8> = Vec::new();
        loop {
            let mut code = (0..7).fold(0, |c, _| c << 1 | bit());
            let symbol = if code < 24 {
                256 + code
            } else {
                code = code << 1 | bit();
                match code {
                    0x30..=0xBF => code - 0x30,
                    0xC0..=0xC7 => code - 0xC0 + 280,
                    _ => (code << 1 | bit()) - 0x190 + 144,
                }
            };
            match symbol {
                0..=255 => out.push(symbol as u8),
                256 => return out,
                _ => {
                    let extra = if symbol < 265 || symbol == 285 { 0 } else { (symbol - 261) / 4 };
                    // RFC 1951, 3.2.5: first length of each code.
                    const BASE: [u32; 29] = [
                        3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59,
                        67, 83, 99, 115, 131, 163, 195, 227, 258,
                    ];
                    let more: u32 = (0..extra).map(|i| bit() << i).sum();
                    let length = BASE[symbol as usize - 257] + more;
                    assert_eq!((0..5).map(|_| bit()).sum::<u32>(), 0, "distance 1");
                    let last = *out.last().expect("a run repeats something");
                    out.extend(std::iter::repeat_n(last, length as usize));
                }
            }
        }
    }

    #[test]
    fn streams_inflate_to_what_went_in() {
        let ramp: Vec<u8> = (0..=255).collect();
        for data in [vec![], vec![7], vec![0; 5000], ramp, [vec![200; 259], vec![3; 258]].concat()]
        {
            assert_eq!(inflate(&zlib(&data)), data);
        }
        for run in 1..600 {
            let data = [vec![9; run], vec![1, 2]].concat();
            assert_eq!(inflate(&zlib(&data)), data);
        }
        // The check value of the CRC's standard.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
