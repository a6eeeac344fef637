//! The ticket as a QR code of half blocks, when a terminal can show it.

use qrcode::{Color, EcLevel, QrCode};

/// Modules of white around the code.
const QUIET: usize = 2;

/// The code as lines, or none if stderr's terminal is too small or unknown.
pub(crate) fn for_terminal(text: &str) -> Option<String> {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok()?;
    draw(text, usize::from(size.ws_col), usize::from(size.ws_row))
}

fn draw(text: &str, columns: usize, rows: usize) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let side = code.width() + 2 * QUIET;
    if side > columns || side.div_ceil(2) + 6 > rows {
        return None;
    }
    // light modules are drawn, so that it reads on dark and (inverted) on light terminals
    let light = |x: usize, y: usize| {
        let inside = |v: usize| v.checked_sub(QUIET).filter(|v| *v < code.width());
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => code[(x, y)] == Color::Light,
            _ => y < side,
        }
    };
    let mut lines = String::new();
    for y in (0..side).step_by(2) {
        for x in 0..side {
            lines.push(match (light(x, y), light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        lines.push('\n');
    }
    lines.pop();
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_fits_or_is_not_drawn() {
        let code = draw("me.things:me.sync.v4:AAAA", 80, 40).unwrap();
        assert!(code.lines().all(|line| line.chars().count() == code.lines().next().unwrap().chars().count()));
        assert_eq!(draw("me.things:me.sync.v4:AAAA", 20, 40), None);
        assert_eq!(draw("me.things:me.sync.v4:AAAA", 80, 15), None);
    }
}
