//! HTTP/1.1 by hand: an origin server that says exactly what a test wants, and a client that reads what came.

use super::targets::TcpTarget;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// A message: the head with its empty line, and the body.
#[derive(Debug)]
pub struct Message {
    /// The head.
    pub head: String,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
}

impl Message {
    /// The status line, or the request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the head has this line, but for the case of its name.
    pub fn has(&self, line: &str) -> bool {
        self.head
            .lines()
            .any(|other| other.eq_ignore_ascii_case(line))
    }
}

/// One side of a connection.
#[derive(Debug)]
pub struct Http {
    /// What is read.
    pub reader: BufReader<TcpStream>,
}

impl Http {
    /// Over this stream.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn send(&self, text: &str) -> std::io::Result<()> {
        self.reader.get_ref().write_all(text.as_bytes())
    }

    /// Reads a head.
    ///
    /// # Errors
    /// Those of the stream; `UnexpectedEof` at its end.
    pub fn head(&mut self) -> std::io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(head)
    }

    /// Reads a message; `has_body`: as its head says, else none.
    ///
    /// # Errors
    /// As [`Self::head`].
    pub fn message(&mut self, has_body: bool) -> std::io::Result<Message> {
        let head = self.head()?;
        let body = if has_body {
            self.body(&head)?
        } else {
            Vec::new()
        };
        Ok(Message { head, body })
    }

    /// Reads the body that a head announces.
    ///
    /// # Errors
    /// As [`Self::head`].
    pub fn body(&mut self, head: &str) -> std::io::Result<Vec<u8>> {
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if lower.contains("transfer-encoding: chunked") {
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim().split(';').next().unwrap(), 16)
                    .map_err(|_| std::io::ErrorKind::InvalidData)?;
                if size == 0 {
                    while self.reader.read_line(&mut line)? > 2 {}
                    return Ok(body);
                }
                let at = body.len();
                body.resize(at + size, 0);
                self.reader.read_exact(&mut body[at..])?;
                self.reader.read_exact(&mut [0; 2])?;
            }
        }
        let length = lower.split("content-length: ").nth(1);
        if let Some(length) = length.and_then(|rest| rest.split("\r\n").next()) {
            body.resize(length.parse().unwrap(), 0);
            self.reader.read_exact(&mut body)?;
        } else if lower.starts_with("http/") {
            self.reader.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    /// What comes up to the end of the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest)?;
        Ok(rest)
    }
}

impl Http {
    /// Sends a request and reads its response.
    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request).unwrap();
        self.message(!request.starts_with("HEAD")).unwrap()
    }

    /// Whether the proxy has ended the connection in order, and nothing more came.
    pub fn is_over(&mut self) -> bool {
        matches!(self.rest().as_deref(), Ok([]))
    }
}

/// A server whose paths say what it does: see the code.
pub fn origin() -> TcpTarget {
    TcpTarget::serve(|stream| {
        let mut http = Http::new(stream);
        while serve_one(&mut http).unwrap_or(false) {}
    })
}

/// Serves a request. Returns whether the connection goes on.
fn serve_one(http: &mut Http) -> std::io::Result<bool> {
    let head = http.head()?;
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let ok = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    match path.as_str() {
        "/hello" if head.starts_with("HEAD") => {
            http.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")?;
        }
        "/hello" => http.send(&ok("hello"))?,
        "/head" => http.send(&ok(&head))?,
        "/204" => http.send("HTTP/1.1 204 No Content\r\n\r\n")?,
        "/304" => http.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n")?,
        "/echo" => {
            if head.to_ascii_lowercase().contains("expect: 100-continue") {
                http.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = http.body(&head)?;
            http.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for piece in body.chunks(1000) {
                http.send(&format!("{:x};a=b\r\n", piece.len()))?;
                http.reader.get_ref().write_all(piece)?;
                http.send("\r\n")?;
            }
            http.send("0\r\nTrailer-Field: 1\r\n\r\n")?;
        }
        "/until-end" => {
            http.send("HTTP/1.1 200 OK\r\n\r\nall of it")?;
            return Ok(false);
        }
        "/cut" => {
            http.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
            return Ok(false);
        }
        "/early" => {
            http.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n")?;
            let _gone = http.rest();
            return Ok(false);
        }
        "/two-lengths" => {
            http.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")?;
        }
        "/upgrade" => {
            http.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhi")?;
            let mut buf = [0; 1000];
            while let Ok(len @ 1..) = http.reader.read(&mut buf) {
                http.reader.get_ref().write_all(&buf[..len])?;
            }
            return Ok(false);
        }
        "/once" => {
            http.send(&ok("once"))?;
            return Ok(false);
        }
        _ => http.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
    }
    Ok(true)
}
