//! Steering: a program in the kernel that gives each datagram of a group of sockets to the thread it is for.
//!
//! It is classic BPF, run by the kernel once per datagram, or per super-packet when the datagrams were joined before they
//! reach the socket. It says the same as `pipeline::steer`, which a test compares it with: message types 3 and 4 go by the
//! worker's number in byte 5, type 2 by that in byte 9 (the receiver index, `tunnel::index`), everything else goes to the
//! entrance, the last of the group.

#![allow(unsafe_code)]

use crate::model::MAX_WORKERS;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Has the kernel steer the datagrams of the group that `socket` is in, of one socket for each of `workers` and one more.
///
/// # Errors
/// A kernel older than 4.5, or a socket that is in no group.
pub(super) fn attach(socket: &OwnedFd, workers: u16) -> io::Result<()> {
    let mut instructions = program(workers);
    let program =
        libc::sock_fprog { len: instructions.len() as libc::c_ushort, filter: instructions.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // SAFETY: the kernel reads a `sock_fprog` of `len` bytes and the `program.len` instructions it points at, all of which
    // live through the call, and keeps a copy; it checks the program before it runs it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const program).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A load beyond the datagram's end would end the program with 0, the first worker: so lengths are looked at first.
fn program(workers: u16) -> [libc::sock_filter; INSTRUCTIONS] {
    const LOAD_LEN: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const RETURN_A: u32 = libc::BPF_RET | libc::BPF_A;
    let workers = u32::from(workers);
    let op = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    // The two jumps count the instructions to skip, if it is so and if not.
    [
        /*  0 */ op(LOAD_LEN, 0, 0, 0),
        /*  1 */ op(IF_AT_LEAST, 8, 0, 12), // else 14
        /*  2 */ op(LOAD_BYTE, 0, 0, 0),
        /*  3 */ op(IF_EQUAL, 4, 6, 0), // 10
        /*  4 */ op(IF_EQUAL, 3, 5, 0), // 10
        /*  5 */ op(IF_EQUAL, 2, 0, 8), // else 14
        /*  6 */ op(LOAD_LEN, 0, 0, 0),
        /*  7 */ op(IF_AT_LEAST, 12, 0, 6), // else 14
        /*  8 */ op(LOAD_BYTE, 9, 0, 0),
        /*  9 */ op(GO, 1, 0, 0), // 11
        /* 10 */ op(LOAD_BYTE, 5, 0, 0),
        /* 11 */ op(AND, u32::from(MAX_WORKERS - 1), 0, 0),
        /* 12 */ op(IF_AT_LEAST, workers, 1, 0), // 14
        /* 13 */ op(RETURN_A, 0, 0, 0),
        /* 14 */ op(RETURN, workers, 0, 0),
    ]
}

const INSTRUCTIONS: usize = 15;
