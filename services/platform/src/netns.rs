//! Network namespaces without root, and processes inside them.
//!
//! A machine within the machine: [`enter_new`] makes the calling process the administrator of a network of its own
//! (a user namespace in which it is root, and a network namespace that belongs to it). [`NetNs::create`] adds further
//! networks, one per simulated computer. A namespace lives as long as something holds it: a descriptor here, a process
//! inside, or a network device's peer that has not been deleted.
//!
//! Never: enter a namespace on a thread that others use afterwards. Every entry happens on a thread of its own or in
//! a child between fork and exec.

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid},
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

/// Why no namespace could be made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The kernel or its administrator refuses user namespaces to this user.
    #[error(
        "this user may not create namespaces ({source}): allow them (sysctl kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces > 0) or start as root"
    )]
    NotPermitted {
        /// What the system said.
        source: io::Error,
    },
    /// One step failed.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: String,
        /// What the system said.
        source: io::Error,
    },
}

fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> NamespaceError {
    let step = what.into();
    move |source| NamespaceError::Step { step, source }
}

/// Moves the calling process into a new user namespace, where it is root (its own user is the only one there), and a
/// new network namespace. Where user namespaces are refused but the caller is root already, only the network is new.
///
/// The process must have one thread: the kernel refuses otherwise.
pub fn enter_new() -> Result<(), NamespaceError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(nix::errno::Errno::EINVAL) => {
            return Err(step("unshare: the process has more than one thread")(
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        Err(refused) if uid.is_root() => {
            return unshare(CloneFlags::CLONE_NEWNET).map_err(|_| NamespaceError::NotPermitted {
                source: refused.into(),
            });
        }
        Err(refused) => {
            return Err(NamespaceError::NotPermitted {
                source: refused.into(),
            });
        }
    }
    // user_namespaces(7): an unprivileged process may map its own group only after giving up setgroups.
    for (file, content) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        std::fs::write(file, content).map_err(step(file))?;
    }
    Ok(())
}

/// Joins the user and network namespaces of another process of the same user, for a tool that wants to be where that
/// process is. The calling process must have one thread.
pub fn join(pid: u32, network: &NetNs) -> Result<(), NamespaceError> {
    let user = format!("/proc/{pid}/ns/user");
    let theirs = File::open(&user).map_err(step(&user))?;
    let same = std::fs::read_link(&user).map_err(step(&user))?
        == std::fs::read_link("/proc/self/ns/user").map_err(step("/proc/self/ns/user"))?;
    if !same {
        setns(&theirs, CloneFlags::CLONE_NEWUSER).map_err(|e| step(format!("enter {user}"))(e.into()))?;
    }
    setns(network, CloneFlags::CLONE_NEWNET)
        .map_err(|e| step(format!("enter the network of process {pid}"))(e.into()))
}

impl NetNs {
    /// A new, empty network that belongs to the caller's user namespace. Its loopback interface is down.
    pub fn create() -> Result<Self, NamespaceError> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| step("create a network namespace")(e.into()))?;
            Self::current()
        })
    }

    /// The network of the calling thread.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace behind a file of nsfs, for instance `/proc/PID/ns/net` or `/proc/PID/fd/N`.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file = File::open(path).map_err(step(path.display().to_string()))?;
        Ok(Self { fd: file.into() })
    }

    /// Runs `work` inside this network, on a thread of its own, and returns what it returned. Sockets made inside
    /// stay inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        on_own_thread(|| {
            setns(&self.fd, CloneFlags::CLONE_NEWNET)
                .map_err(|e| step("enter a network namespace")(e.into()))?;
            Ok(work())
        })
    }

    /// A second descriptor of the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A tokio runtime's handle, when there is one, follows on to the thread, so that `work` may make async sockets.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let runtime = tokio::runtime::Handle::try_current().ok();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let _guard = runtime.as_ref().map(|handle| handle.enter());
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Prepares `command` as a daemon of a controller: inside `network`, leader of a process group of its own (so that all
/// that it starts can be signalled together), and killed by the kernel when the *thread* that starts it ends.
/// Start it with [`Spawner`], whose thread ends only with the process.
fn confine(command: &mut Command, network: Option<NetNs>) {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made: setns, prctl and getppid are bare system
    // calls, and io::Error::from_raw_os_error and from(ErrorKind) do not allocate. The descriptor was opened before
    // the fork and lives in the closure.
    unsafe {
        command.pre_exec(move || {
            if let Some(network) = &network
                && libc::setns(network.fd.as_raw_fd(), libc::CLONE_NEWNET) != 0
            {
                return Err(io::Error::last_os_error());
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above took effect.
            if libc::getppid() as u32 != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts processes that must not outlive this one.
///
/// The kernel ties a child to the thread that forked it (PR_SET_PDEATHSIG), and threads of a runtime come and go. So
/// all children come from one thread that waits for work until the process ends.
#[derive(Clone)]
pub struct Spawner {
    jobs: std::sync::mpsc::Sender<Job>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                // Ends when the last Spawner is dropped, and its children with it.
                for job in queue {
                    job();
                }
            })?;
        Ok(Self { jobs })
    }

    /// Starts `command` inside `network` (or where this process is), as leader of a process group whose id is its
    /// process id. Must be called from within a tokio runtime, which then reaps the child.
    pub async fn spawn(
        &self,
        mut command: Command,
        network: Option<&NetNs>,
    ) -> io::Result<tokio::process::Child> {
        confine(&mut command, network.map(NetNs::try_clone).transpose()?);
        let runtime = tokio::runtime::Handle::current();
        let (answer, result) = tokio::sync::oneshot::channel();
        let job = Box::new(move || {
            let _guard = runtime.enter();
            let _ = answer.send(tokio::process::Command::from(command).spawn());
        });
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.jobs.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spawner")
    }
}

/// A signal to a whole process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSignal {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Signals every process of the group that `leader` leads. The caller must not have reaped the leader yet: its id is
/// then certainly not somebody else's. Answers false when nobody was left to signal.
pub fn signal_group(leader: u32, signal: GroupSignal) -> io::Result<bool> {
    use nix::sys::signal::{Signal, killpg};
    let signal = match signal {
        GroupSignal::Kill => Signal::SIGKILL,
        GroupSignal::Terminate => Signal::SIGTERM,
        GroupSignal::Stop => Signal::SIGSTOP,
        GroupSignal::Continue => Signal::SIGCONT,
    };
    // Group 0 would be the caller's own, and group 1 everybody.
    let group = i32::try_from(leader).ok().filter(|group| *group > 1);
    let group = group
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("process group {leader}")))?;
    match killpg(nix::unistd::Pid::from_raw(group), signal) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
