//! `ssr top`: what a running process does, live.

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};
use serde_json::Value;
use ssr::config::visible;
use ssr::control::call::{Api, CallError};
use ssr::control::status::bytes;

use super::api::{ApiArgs, failed};
use super::output::usage_error;

/// Rates that are kept for the chart.
const KEPT: usize = 512;

#[derive(Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

impl TopArgs {
    /// `ssr top`.
    pub(crate) fn run(&self) -> ExitCode {
        if !stdout().is_terminal() {
            return usage_error("ssr top needs a terminal: `ssr status --json` is for programs");
        }
        let api = match self.api.find() {
            Ok(api) => api,
            Err(code) => return code,
        };
        let mut view = View::default();
        // What is wrong at the beginning stays on the screen.
        if let Err(error) = view.look(&api) {
            return failed(&error);
        }
        let mut terminal = ratatui::init();
        let ended = view.show(&mut terminal, &api, Duration::from_secs(self.interval));
        ratatui::restore();
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => usage_error(&format!("the terminal cannot be used: {error}")),
        }
    }
}

/// What is shown.
#[derive(Default)]
struct View {
    status: Value,
    users: Vec<Value>,
    sessions: Vec<Value>,
    looked: Option<Instant>,
    /// Bytes a second, down and up, the last one last.
    rates: Vec<(u64, u64)>,
    /// Why nothing newer is known.
    error: Option<String>,
    /// The first line of the table that is shown.
    first: usize,
    shows_sessions: bool,
}

impl View {
    /// Asks for everything.
    fn look(&mut self, api: &Api) -> Result<(), CallError> {
        let status = api.get("/api/v1/status")?;
        self.users = list(api.get("/api/v1/users")?);
        self.sessions = list(api.get("/api/v1/sessions")?);
        self.sessions.sort_by_key(|one| {
            std::cmp::Reverse(number(one, "bytes_down") + number(one, "bytes_up"))
        });
        let now = Instant::now();
        if let Some(before) = self.looked {
            let millis = now.duration_since(before).as_millis().max(1);
            let rate = |key: &str| {
                let moved = number(&status, key).saturating_sub(number(&self.status, key));
                u64::try_from(u128::from(moved) * 1000 / millis).unwrap_or(u64::MAX)
            };
            self.rates.push((rate("bytes_down"), rate("bytes_up")));
            if self.rates.len() > KEPT {
                self.rates.remove(0);
            }
        }
        (self.status, self.looked) = (status, Some(now));
        Ok(())
    }

    /// Shows it until somebody wants to leave.
    fn show(
        &mut self,
        terminal: &mut DefaultTerminal,
        api: &Api,
        interval: Duration,
    ) -> std::io::Result<()> {
        let mut next = Instant::now() + Duration::from_millis(500);
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            let left = next.saturating_duration_since(Instant::now());
            if event::poll(left)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
                        match key.code {
                            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                            KeyCode::Char('c') if is_control => return Ok(()),
                            KeyCode::Tab | KeyCode::Char('s') => {
                                (self.shows_sessions, self.first) = (!self.shows_sessions, 0);
                            }
                            KeyCode::Down => self.first = self.first.saturating_add(1),
                            KeyCode::PageDown => self.first = self.first.saturating_add(10),
                            KeyCode::Up => self.first = self.first.saturating_sub(1),
                            KeyCode::PageUp => self.first = self.first.saturating_sub(10),
                            KeyCode::Home => self.first = 0,
                            _ => {}
                        }
                    }
                    _ => {}
                }
                continue;
            }
            self.error = self.look(api).err().map(|error| error.to_string());
            next = Instant::now() + interval;
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let servers = self.servers().len().min(8);
        let servers = u16::try_from(servers).unwrap_or(0) + 1;
        let [head, chart, upstreams, table, foot] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Max(6),
            Constraint::Max(servers),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_chart(frame, chart);
        self.draw_servers(frame, upstreams);
        match self.shows_sessions || self.users.is_empty() {
            true => self.draw_sessions(frame, table),
            false => self.draw_users(frame, table),
        }
        let keys = "q: leave   Tab: users or sessions   arrows: scroll";
        let line = match &self.error {
            Some(error) => Line::styled(clean(error), Style::new().fg(Color::Red)),
            None => Line::styled(keys, Style::new().add_modifier(Modifier::DIM)),
        };
        frame.render_widget(line, foot);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let of = |key: &str| number(&self.status, key);
        let (down, up) = self.rates.last().copied().unwrap_or_default();
        let first = format!(
            "ssr {} {}, process {}, running for {} s",
            text(&self.status, "role"),
            text(&self.status, "version"),
            of("pid"),
            of("uptime_s"),
        );
        let second = format!(
            "down {}/s  up {}/s  TCP {}  UDP {}",
            bytes(down),
            bytes(up),
            of("connections"),
            of("udp_sessions"),
        );
        let third = format!(
            "sum down {}  up {}  memory {}  files {}",
            bytes(of("bytes_down")),
            bytes(of("bytes_up")),
            bytes(of("memory_bytes")),
            of("open_files"),
        );
        let strong = Style::new().add_modifier(Modifier::BOLD);
        let lines = vec![
            Line::styled(first, strong),
            Line::raw(second),
            Line::raw(third),
        ];
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn draw_chart(&self, frame: &mut Frame<'_>, area: Rect) {
        let width = usize::from(area.width);
        let first = self.rates.len().saturating_sub(width);
        let rates = self.rates.get(first..).unwrap_or_default();
        let sums: Vec<u64> = rates
            .iter()
            .map(|(down, up)| down.saturating_add(*up))
            .collect();
        let most = sums.iter().max().copied().unwrap_or(0);
        let chart = Sparkline::default()
            .block(Block::bordered().title(format!("down and up, most {}/s", bytes(most))))
            .data(&sums)
            .style(Style::new().fg(Color::Cyan));
        frame.render_widget(chart, area);
    }

    fn servers(&self) -> &[Value] {
        let servers = self.status.get("servers").and_then(Value::as_array);
        servers.map(Vec::as_slice).unwrap_or_default()
    }

    fn draw_servers(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.servers().iter().map(|one| {
            let is = |key: &str| one.get(key) == Some(&Value::Bool(true));
            let state = match (is("failed"), is("chosen"), is("active")) {
                (true, ..) => Span::styled("failed", Style::new().fg(Color::Red)),
                (_, true, _) => Span::styled("chosen", Style::new().fg(Color::Green)),
                (.., true) => Span::styled("in use", Style::new().fg(Color::Green)),
                _ => Span::raw("ready"),
            };
            let latency = one.get("latency_ms").and_then(Value::as_f64);
            let latency = latency.map_or_else(String::new, |time| format!("{time:.1} ms"));
            let failures = number(one, "failures").to_string();
            let by = match text(one, "way") {
                "" => String::new(),
                way => format!(", by {way}"),
            };
            Row::new([
                Span::raw(clean(text(one, "name")) + &clean(&by)),
                state,
                Span::raw(latency),
                Span::raw(failures),
            ])
        });
        let widths = [
            Constraint::Min(12),
            Constraint::Length(7),
            Constraint::Length(10),
            Constraint::Length(8),
        ];
        let head = heading(["server", "state", "latency", "failures"]);
        frame.render_widget(Table::new(rows, widths).header(head), area);
    }

    fn draw_users(&mut self, frame: &mut Frame<'_>, area: Rect) {
        self.first = self.first.min(self.users.len().saturating_sub(1));
        let rows = self.users.iter().skip(self.first).map(|one| {
            let limits = one.get("limits").cloned().unwrap_or_default();
            let quota = match number(&limits, "quota_bytes") {
                0 => String::new(),
                most => format!("{} of {}", bytes(number(one, "used_bytes")), bytes(most)),
            };
            let refused = text(one, "refused");
            let style = match refused {
                "" => Style::new(),
                _ => Style::new().fg(Color::Red),
            };
            Row::new([
                clean(match text(one, "name") {
                    "" => "(one key)",
                    name => name,
                }),
                number(one, "connections").to_string(),
                number(one, "udp_sessions").to_string(),
                bytes(number(one, "bytes_down")),
                bytes(number(one, "bytes_up")),
                quota,
                refused.to_owned(),
            ])
            .style(style)
        });
        let widths = [
            Constraint::Min(10),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(22),
            Constraint::Length(8),
        ];
        let head = heading(["user", "TCP", "UDP", "down", "up", "quota", "refused"]);
        frame.render_widget(Table::new(rows, widths).header(head), area);
    }

    fn draw_sessions(&mut self, frame: &mut Frame<'_>, area: Rect) {
        self.first = self.first.min(self.sessions.len().saturating_sub(1));
        let rows = self.sessions.iter().skip(self.first).map(|one| {
            Row::new([
                clean(text(one, "user")),
                clean(text(one, "peer")),
                clean(text(one, "target")),
                text(one, "protocol").to_owned(),
                bytes(number(one, "bytes_down")),
                bytes(number(one, "bytes_up")),
                format!("{} s", number(one, "age_s")),
            ])
        });
        let widths = [
            Constraint::Max(12),
            Constraint::Max(22),
            Constraint::Min(16),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(8),
        ];
        let head = heading(["user", "from", "to", "protocol", "down", "up", "age"]);
        frame.render_widget(Table::new(rows, widths).header(head), area);
    }
}

fn heading<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names).style(Style::new().add_modifier(Modifier::BOLD))
}

fn list(answer: Value) -> Vec<Value> {
    match answer {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Without control characters.
fn clean(text: &str) -> String {
    visible(text).to_string()
}
