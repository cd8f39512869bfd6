//! libiscsi, opened at run time: the table of functions that the host uses, and nothing more.
//!
//! No C header is needed to build, and no structure of the library is laid out here but one: the
//! first three fields of the decoded sense. Data goes through buffers that we own
//! (`scsi_task_add_data_in_buffer` and its twin), so that the shape of a task is the library's own
//! business. The one shape is probed when the library is opened: it decodes a sense that we know,
//! and a library that puts the answer elsewhere is refused.
//!
//! Must never: guess. A missing function names itself and the package that would bring it.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};

use libloading::Library;

/// The names under which distributions install the library, newest interface first.
const NAMES: [&str; 5] = [
    "libiscsi.so.10",
    "libiscsi.so.9",
    "libiscsi.so.8",
    "libiscsi.so.7",
    "libiscsi.so",
];

/// A session's context; opaque.
#[repr(C)]
pub(crate) struct Context {
    _opaque: [u8; 0],
}

/// A SCSI task; opaque.
#[repr(C)]
pub(crate) struct Task {
    _opaque: [u8; 0],
}

/// What the library calls when something is done: context, status, data of that status, our word.
pub(crate) type Callback = unsafe extern "C" fn(*mut Context, c_int, *mut c_void, *mut c_void);

/// The start of the library's decoded sense, with room for what later versions append.
#[repr(C)]
pub(crate) struct Sense {
    /// Response code, 0x70 to 0x73.
    pub(crate) error_type: c_uchar,
    /// Sense key; an enum in C.
    pub(crate) key: c_int,
    /// Additional sense code and qualifier, code in the high byte.
    pub(crate) ascq: c_int,
    _later: [u64; 32],
}

impl Sense {
    pub(crate) fn zeroed() -> Self {
        Sense {
            error_type: 0,
            key: 0,
            ascq: 0,
            _later: [0; 32],
        }
    }
}

/// Why the library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No library under any known name.
    #[error(
        "libiscsi cannot be opened ({reason}); install the Debian package libiscsi7 (apt-get install libiscsi7)"
    )]
    Missing {
        /// What the loader said about the last name tried.
        reason: String,
    },
    /// The library lacks a function.
    #[error(
        "{library} has no function `{function}`; libiscsi 1.18 or newer is needed (Debian package libiscsi7)"
    )]
    Function {
        /// Name under which the library was opened.
        library: &'static str,
        /// The function.
        function: &'static str,
    },
    /// The library's sense has another shape than the one used here.
    #[error(
        "{library} decodes sense 70/06/2A06 as {found}; its structures differ from those of libiscsi 1.18 to 1.20"
    )]
    Layout {
        /// Name under which the library was opened.
        library: &'static str,
        /// What was found at the expected places.
        found: String,
    },
}

macro_rules! api {
    ($($name:ident : fn($($arg:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// The functions of the opened library.
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            /// Keeps the code mapped for as long as the pointers above can be called.
            _library: Library,
        }

        impl Api {
            fn resolve(library: Library, name: &'static str) -> Result<Self, LoadError> {
                $(
                    // SAFETY: the symbol is a C function of this very signature in libiscsi 1.18
                    // to 1.20 (iscsi.h, scsi-lowlevel.h); the pointer is used only while
                    // `_library`, which moves into the same structure, keeps it mapped.
                    let $name = *unsafe {
                        library.get::<unsafe extern "C" fn($($arg),*) $(-> $ret)?>(
                            concat!(stringify!($name), "\0").as_bytes(),
                        )
                    }
                    .map_err(|_| LoadError::Function { library: name, function: stringify!($name) })?;
                )*
                Ok(Api { $($name,)* _library: library })
            }
        }
    };
}

api! {
    iscsi_create_context: fn(*const c_char) -> *mut Context;
    iscsi_destroy_context: fn(*mut Context) -> c_int;
    iscsi_set_targetname: fn(*mut Context, *const c_char) -> c_int;
    iscsi_set_session_type: fn(*mut Context, c_int) -> c_int;
    iscsi_set_header_digest: fn(*mut Context, c_int) -> c_int;
    iscsi_set_isid_random: fn(*mut Context, u32, u32) -> c_int;
    iscsi_set_noautoreconnect: fn(*mut Context, c_int);
    iscsi_connect_async: fn(*mut Context, *const c_char, Callback, *mut c_void) -> c_int;
    iscsi_login_async: fn(*mut Context, Callback, *mut c_void) -> c_int;
    iscsi_logout_async: fn(*mut Context, Callback, *mut c_void) -> c_int;
    iscsi_nop_out_async: fn(*mut Context, Callback, *mut c_uchar, c_int, *mut c_void) -> c_int;
    iscsi_scsi_command_async: fn(*mut Context, c_int, *mut Task, Callback, *mut c_void, *mut c_void) -> c_int;
    iscsi_task_mgmt_abort_task_async: fn(*mut Context, *mut Task, Callback, *mut c_void) -> c_int;
    iscsi_get_fd: fn(*mut Context) -> c_int;
    iscsi_which_events: fn(*mut Context) -> c_int;
    iscsi_service: fn(*mut Context, c_int) -> c_int;
    iscsi_get_error: fn(*mut Context) -> *const c_char;
    scsi_create_task: fn(c_int, *mut c_uchar, c_int, c_int) -> *mut Task;
    scsi_free_scsi_task: fn(*mut Task);
    scsi_task_add_data_in_buffer: fn(*mut Task, c_int, *mut c_uchar) -> c_int;
    scsi_task_add_data_out_buffer: fn(*mut Task, c_int, *mut c_uchar) -> c_int;
    scsi_task_get_status: fn(*mut Task, *mut Sense) -> c_int;
    scsi_parse_sense_data: fn(*mut Sense, *const c_uchar);
}

impl Api {
    /// Opens the library, resolves every function and probes the one layout used.
    pub(crate) fn load() -> Result<Self, LoadError> {
        let mut reason = String::new();
        for name in NAMES {
            // SAFETY: opening runs the library's initializers; libiscsi has none that touch us.
            match unsafe { Library::new(name) } {
                Ok(library) => {
                    let api = Self::resolve(library, name)?;
                    api.probe_sense(name)?;
                    return Ok(api);
                }
                Err(err) => reason = err.to_string(),
            }
        }
        Err(LoadError::Missing { reason })
    }

    fn probe_sense(&self, library: &'static str) -> Result<(), LoadError> {
        // Fixed format, unit attention, asymmetric access state changed.
        let raw: [u8; 18] = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2a, 0x06, 0, 0, 0, 0];
        let mut sense = Sense::zeroed();
        // SAFETY: `sense` is larger than the structure of any known version; `raw` holds the 18
        // bytes of a fixed-format sense, and its length byte says so.
        unsafe { (self.scsi_parse_sense_data)(&mut sense, raw.as_ptr()) };
        if (sense.error_type, sense.key, sense.ascq) == (0x70, 6, 0x2a06) {
            return Ok(());
        }
        let found = format!("{:02x}/{:02x}/{:04x}", sense.error_type, sense.key, sense.ascq);
        Err(LoadError::Layout { library, found })
    }

    /// The library's last words about a context.
    pub(crate) fn error_of(&self, context: *mut Context) -> String {
        // SAFETY: `context` is a live context of this library; the string is copied before any
        // further call can change it.
        let text = unsafe { (self.iscsi_get_error)(context) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null, and NUL-terminated by the library.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .trim()
            .to_owned()
    }
}
