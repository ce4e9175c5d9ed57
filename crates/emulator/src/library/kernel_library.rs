//! Compiled kernels: a shared library, loaded.

use crate::error::{Error, Result};
use crate::fault::SourceLine;
use crate::library::ffi;
use crate::library::source;
use crate::library::toolchain::{Compilation, kernel_files};
use crate::memory::shadow::Site;
use object::{Object, ObjectSymbol, SymbolKind};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// A statically declared `__shared__` variable.
#[derive(Debug)]
pub(crate) struct StaticVariable {
    pub name: String,
    pub start: usize,
    pub bytes: usize,
    /// Made by the compiler, not by the kernel's author.
    pub bookkeeping: bool,
}

/// The `__shared__` variables of a library, by offset.
#[derive(Debug, Default)]
pub(crate) struct StaticVariables(Vec<StaticVariable>);

impl StaticVariables {
    /// The variable that holds the byte at an offset.
    pub fn find(&self, offset: usize) -> Option<&StaticVariable> {
        let next = self.0.partition_point(|variable| variable.start <= offset);
        self.0[..next].last().filter(|variable| offset < variable.start + variable.bytes)
    }

    /// An offset that is in no variable, in words.
    pub fn describe(&self, offset: usize) -> String {
        let next = self.0.partition_point(|variable| variable.start <= offset);
        match self.0[..next].iter().rfind(|variable| !variable.bookkeeping) {
            None => "before the first".into(),
            Some(variable) => format!(
                "{} bytes past the end of `{}` ({} bytes), in no",
                offset - variable.start - variable.bytes,
                variable.name,
                variable.bytes
            ),
        }
    }
}

/// How to start a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub entry: unsafe extern "C" fn(*const u8),
    pub argument_bytes: usize,
    pub threads: u32,
    pub cluster: u32,
}

/// `emulator::Registration` of include/emulator/registration.h.
#[repr(C)]
struct Registration {
    name: *const c_char,
    entry: unsafe extern "C" fn(*const u8),
    argument_bytes: u64,
    threads: u32,
    cluster: u32,
    next: *const Registration,
}

/// Kernels, compiled for the emulator.
#[derive(Debug)]
pub struct KernelLibrary {
    path: PathBuf,
    kernels: BTreeMap<String, Kernel>,
    image: Range<usize>,
    pub(crate) variables: Arc<StaticVariables>,
    static_shared: unsafe extern "C" fn(*mut u64) -> *mut u8,
    /// Lines that were looked up.
    lines: Mutex<HashMap<Site, Arc<[SourceLine]>>>,
    // Last: the fields above point into it.
    _library: libloading::Library,
    /// Removed with the library, where it was compiled at run time.
    _directory: Option<TemporaryDirectory>,
}

impl KernelLibrary {
    /// The kernels of lora-kernels as they are, compiled when this crate was built.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there was no compiler; an error of the loader.
    pub fn standard() -> Result<Arc<KernelLibrary>> {
        static LIBRARY: OnceLock<Result<Arc<KernelLibrary>>> = OnceLock::new();
        LIBRARY
            .get_or_init(|| match option_env!("LORA_EMULATOR_LIBRARY") {
                Some(path) => KernelLibrary::load(Path::new(path), None).map(Arc::new),
                None => Err(unavailable()),
            })
            .clone()
    }

    /// Compiles kernels at run time: other files, or the standard ones with macros or changed text.
    pub fn builder() -> LibraryBuilder {
        LibraryBuilder::default()
    }

    /// The names of the kernels, sorted.
    pub fn kernel_names(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// Threads of a block, as the kernel declares them.
    pub fn threads(&self, kernel: &str) -> Option<u32> {
        self.kernels.get(kernel).map(|kernel| kernel.threads)
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<Kernel> {
        self.kernels.get(name).copied()
    }

    /// The lines of a call or access, from the innermost inlined function outwards. Empty if unknown.
    pub(crate) fn lines(&self, site: Site) -> Arc<[SourceLine]> {
        let mut known = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.entry(site).or_insert_with(|| source::lines(&self.path, site).into()).clone()
    }

    pub(crate) fn image_start(&self) -> usize {
        self.image.start
    }

    /// Whether these bytes are part of the library: code and constants.
    pub(crate) fn holds(&self, address: usize, bytes: usize) -> bool {
        self.image.contains(&address) && bytes <= self.image.end - address
    }

    /// The running host thread's storage of `__shared__` variables.
    pub(crate) fn static_shared(&self) -> (usize, usize) {
        let mut bytes = 0;
        // SAFETY: the function is the loaded library's, and writes the size.
        let start = unsafe { (self.static_shared)(&mut bytes) };
        (start as usize, bytes as usize)
    }

    fn load(path: &Path, directory: Option<TemporaryDirectory>) -> Result<KernelLibrary> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::Library(format!("{}: {what}: {error}", path.display()))
        };
        let data = std::fs::read(path).map_err(|error| failed("cannot read it", &error))?;
        let variables = static_variables(&data).map_err(|error| failed("no symbols", &error))?;
        // SAFETY: compiled by this crate's toolchain; its constructors only build the list of kernels.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|error| failed("cannot load it", &error))?;

        type Bind = unsafe extern "C" fn(*const c_char, *const c_void) -> bool;
        type Unbound = unsafe extern "C" fn() -> *const c_char;
        type Kernels = unsafe extern "C" fn() -> *const Registration;
        type Image = unsafe extern "C" fn(*mut usize, *mut usize);
        type StaticShared = unsafe extern "C" fn(*mut u64) -> *mut u8;
        // SAFETY: runtime.cpp, in every library, defines these functions with these types.
        let (bind, unbound, kernels, image, static_shared) = unsafe {
            let symbol = |error: libloading::Error| failed("missing function", &error);
            (
                *library.get::<Bind>(b"emulator_bind\0").map_err(symbol)?,
                *library.get::<Unbound>(b"emulator_unbound\0").map_err(symbol)?,
                *library.get::<Kernels>(b"emulator_kernels\0").map_err(symbol)?,
                *library.get::<Image>(b"emulator_image\0").map_err(symbol)?,
                *library.get::<StaticShared>(b"emulator_static_shared\0").map_err(symbol)?,
            )
        };
        for (name, function) in ffi::functions() {
            // SAFETY: the name ends with a nul; the function has the type that functions.h gives this name.
            if !unsafe { bind(name.as_ptr(), function) } {
                return Err(failed("unknown function", &name.to_string_lossy()));
            }
        }
        // SAFETY: returns null or a literal.
        let missing = unsafe { unbound() };
        if !missing.is_null() {
            // SAFETY: a literal of the library.
            let name = unsafe { CStr::from_ptr(missing) };
            return Err(failed("function without implementation", &name.to_string_lossy()));
        }
        let mut range = (0, 0);
        // SAFETY: writes the two addresses.
        unsafe { image(&mut range.0, &mut range.1) };
        if range.1 - range.0 > crate::memory::shadow::MAX_IMAGE_BYTES {
            return Err(failed("too large", &(range.1 - range.0)));
        }

        let mut table = BTreeMap::new();
        // SAFETY: the list's elements are static objects of the library.
        let mut next = unsafe { kernels() };
        while !next.is_null() {
            // SAFETY: as above; names are literals.
            let (registration, name) = unsafe { (&*next, CStr::from_ptr((*next).name)) };
            let kernel = Kernel {
                entry: registration.entry,
                argument_bytes: registration.argument_bytes as usize,
                threads: registration.threads,
                cluster: registration.cluster,
            };
            if table.insert(name.to_string_lossy().into_owned(), kernel).is_some() {
                return Err(failed("two kernels have one name", &name.to_string_lossy()));
            }
            next = registration.next;
        }
        Ok(KernelLibrary {
            path: path.to_owned(),
            kernels: table,
            image: range.0..range.1,
            variables: Arc::new(variables),
            static_shared,
            lines: Mutex::default(),
            _library: library,
            _directory: directory,
        })
    }
}

fn unavailable() -> Error {
    Error::Unavailable(
        option_env!("LORA_EMULATOR_UNAVAILABLE").unwrap_or("it was built without kernels").into(),
    )
}

fn static_variables(data: &[u8]) -> object::Result<StaticVariables> {
    let file = object::File::parse(data)?;
    let mut variables: Vec<StaticVariable> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Tls && symbol.size() > 0)
        .map(|symbol| {
            let name = symbol.name().unwrap_or("?");
            let readable = addr2line::demangle_auto(name.into(), None).into_owned();
            // The innermost name: a function's local variable is listed with the function's signature.
            let short = readable.rsplit("::").next().unwrap_or(&readable).to_owned();
            StaticVariable {
                name: short,
                start: symbol.address() as usize,
                bytes: symbol.size() as usize,
                bookkeeping: name.starts_with("_ZGV") || name.contains("storage_exists"),
            }
        })
        .collect();
    variables.sort_by_key(|variable| variable.start);
    Ok(StaticVariables(variables))
}

/// A directory that is removed when dropped.
#[derive(Debug)]
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> std::io::Result<Self> {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lora-emulator-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(TemporaryDirectory(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // A directory left behind does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles kernels at run time.
///
/// ```no_run
/// use lora_emulator::KernelLibrary;
/// // `finalize` without its scale, among the other kernels as they are.
/// let mutant = KernelLibrary::builder()
///     .files(["finalize.cu"])
///     .replace("finalize.cu", "segment.scale * sum", "sum")
///     .keep_others()
///     .build()?;
/// # Ok::<(), lora_emulator::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LibraryBuilder {
    directory: Option<PathBuf>,
    files: Vec<String>,
    defines: Vec<String>,
    replacements: Vec<(String, String, String)>,
    keeps_others: bool,
}

impl LibraryBuilder {
    /// Takes the kernels of another directory than lora-kernels' own. Headers are still found in that one too.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Compiles these files only, named relative to the directory, or by their names alone.
    #[must_use]
    pub fn files<S: Into<String>>(mut self, files: impl IntoIterator<Item = S>) -> Self {
        self.files.extend(files.into_iter().map(Into::into));
        self
    }

    /// Compiles these kernels of the files only.
    #[must_use]
    pub fn kernels<S: AsRef<str>>(mut self, kernels: impl IntoIterator<Item = S>) -> Self {
        self.defines.push("LORA_ONLY".into());
        let chosen =
            kernels.into_iter().map(|kernel| format!("LORA_ONLY_{}=~,EMULATOR_KERNEL", kernel.as_ref()));
        self.defines.extend(chosen);
        self
    }

    /// Takes the standard kernels of all other files as they were compiled with this crate, so that a changed kernel can
    /// run among them.
    #[must_use]
    pub fn keep_others(mut self) -> Self {
        self.keeps_others = true;
        self
    }

    /// Defines a macro: `NAME` or `NAME=value`.
    #[must_use]
    pub fn define(mut self, define: impl Into<String>) -> Self {
        self.defines.push(define.into());
        self
    }

    /// Replaces a text in a file (headers as well), named relative to the directory or by its name alone. It must occur exactly
    /// once.
    #[must_use]
    pub fn replace(
        mut self,
        file: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
    ) -> Self {
        self.replacements.push((file.into(), from.into(), to.into()));
        self
    }

    /// Compiles and loads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a compiler; [`Error::Library`] if a file or text is missing, or the compiler's words.
    pub fn build(self) -> Result<Arc<KernelLibrary>> {
        let compiler = option_env!("LORA_EMULATOR_COMPILER").ok_or_else(unavailable)?;
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let standard = manifest.join("../../kernels");
        let original = self.directory.clone().unwrap_or_else(|| standard.clone());
        let failed = |error: std::io::Error| Error::Library(error.to_string());
        let temporary = TemporaryDirectory::new().map_err(failed)?;
        let copy = temporary.0.join("kernels");
        copy_directory(&standard, &copy).map_err(failed)?;
        let directory = if self.directory.is_some() {
            let own = temporary.0.join("own");
            copy_directory(&original, &own).map_err(failed)?;
            own
        } else {
            copy.clone()
        };
        for (file, from, to) in &self.replacements {
            let path = find(&directory, file).map_err(failed)?;
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Error::Library(format!("{}: {error}", path.display())))?;
            let occurrences = text.matches(from).count();
            if occurrences != 1 {
                return Err(Error::Library(format!(
                    "{file} contains {occurrences} times, not once, {from:?}"
                )));
            }
            std::fs::write(&path, text.replace(from, to)).map_err(failed)?;
        }
        let sources = if self.files.is_empty() {
            kernel_files(&directory).map_err(failed)?
        } else {
            let files = self.files.iter().map(|file| find(&directory, file));
            files.collect::<std::io::Result<_>>().map_err(failed)?
        };
        let compiled = match self.keeps_others {
            true => Some(standard_objects(&standard, &sources).map_err(failed)?),
            false => None,
        };
        let library = Compilation {
            compiler: Path::new(compiler),
            emulator_include: &manifest.join("include"),
            // A changed header comes before the one that it replaces.
            kernel_includes: &[&directory, &copy],
            sources: &sources,
            compiled: compiled.as_deref(),
            defines: &self.defines,
            directory: &temporary.0,
        }
        .run()
        .map_err(Error::Library)?;
        KernelLibrary::load(&library, Some(temporary)).map(Arc::new)
    }
}

/// The file at this path in a directory, or of this name in one of its folders.
fn find(directory: &Path, file: &str) -> std::io::Result<PathBuf> {
    let path = directory.join(file);
    if path.exists() {
        return Ok(path);
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path().join(file);
        if path.exists() {
            return Ok(path);
        }
    }
    let message = format!("{}: there is no {file}", directory.display());
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, message))
}

/// The objects that the build script left beside the standard library, but for those of `replaced` files.
fn standard_objects(kernels: &Path, replaced: &[PathBuf]) -> std::io::Result<Vec<PathBuf>> {
    let library = Path::new(option_env!("LORA_EMULATOR_LIBRARY").unwrap_or_default());
    let mut files = kernel_files(kernels)?;
    files.push("runtime.cpp".into());
    files.retain(|file| replaced.iter().all(|other| other.file_name() != file.file_name()));
    Ok(files
        .iter()
        .filter_map(|file| Some(library.with_file_name(file.file_stem()?).with_extension("o")))
        .collect())
}

fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
