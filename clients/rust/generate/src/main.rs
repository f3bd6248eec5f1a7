//! Writes the generated code of the client from the contract.
//!
//!     optserve-generate DESCRIPTORS FOLDER
//!
//! DESCRIPTORS is what protoc writes with --include_imports and --include_source_info.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "optserve.v1";
const RULE: &str = "optserve.v1.OptimizerSpec";

fn main() -> Result<(), Box<dyn Error>> {
    let [descriptors, folder] = env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "two arguments")?;
    let (all, folder) = (FileDescriptorSet::decode(&*fs::read(descriptors)?)?, PathBuf::from(folder));
    let mut contract = all.clone();
    contract.file.retain(|file| !file.package().starts_with("optserve.conformance"));

    let library = folder.join("src/generated");
    fs::create_dir_all(&library)?;
    fs::write(library.join("conversions.rs"), conversions(&contract)?)?;
    fs::write(library.join("methods.rs"), methods(&contract)?)?;
    generate(contract, &library, false)?;

    let driver = folder.join("conformance/generated");
    fs::create_dir_all(&driver)?;
    generate(all, &driver, true)
}

/// Messages and clients; of the conformance messages alone if the contract's are those of the library.
fn generate(mut files: FileDescriptorSet, folder: &Path, uses_library: bool) -> Result<(), Box<dyn Error>> {
    let mut builder = tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(folder);
    if uses_library {
        files.file.retain(|file| file.package() != "google.rpc");
        files.file.iter_mut().filter(|file| file.package() == PACKAGE).for_each(|file| file.service.clear());
        builder = builder.extern_path(".optserve.v1", "::optserve::v1");
    }
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    config.disable_comments([".google.rpc"]); // whose examples rustdoc would compile
    Ok(builder.compile_fds_with_config(files, config)?)
}

/// `From` of each algorithm for the specification of its family; of optimizers for that of a session.
fn conversions(files: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::from("// Conversions of algorithms into specifications.\n");
    let from = |code: &mut String, source: &str, target: &str, body: &str| {
        writeln!(
            code,
            "\nimpl From<{source}> for {target} {{\n    fn from(value: {source}) -> Self {{\n        {body}\n    }}\n}}"
        )
    };
    from(&mut code, "OptimizerSpec", "SessionSpec", "Self { optimizer: Some(value), ..Default::default() }")?;
    let messages = files.file.iter().filter(|file| file.package() == PACKAGE).flat_map(|file| &file.message_type);
    for family in messages.filter(|message| message.name().ends_with("Spec")) {
        let target = family.name().to_upper_camel_case();
        for (index, oneof) in family.oneof_decl.iter().enumerate() {
            for (algorithm, variant) in variants(family, index as i32) {
                let (module, kind) = (family.name().to_snake_case(), oneof.name().to_upper_camel_case());
                let field = oneof.name().to_snake_case();
                let body = format!(
                    "Self {{ {field}: Some({module}::{kind}::{variant}(value.into())), ..Default::default() }}"
                );
                from(&mut code, &algorithm, &target, &body)?;
                if format!("{PACKAGE}.{}", family.name()) == RULE {
                    from(&mut code, &algorithm, "SessionSpec", "OptimizerSpec::from(value).into()")?;
                }
            }
        }
    }
    Ok(code)
}

/// `Rpc` of the request of each method, from which a call knows its path and answer, and where its id is.
fn methods(files: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::from("// Methods of the services.\n");
    let name_of = |path: &str| path.rsplit('.').next().unwrap_or_default().to_upper_camel_case();
    let own = || files.file.iter().filter(|file| file.package() == PACKAGE);
    let changes: Vec<String> = own()
        .flat_map(|file| &file.message_type)
        .filter(|message| message.field.iter().any(|field| field.name() == "request_id"))
        .map(|message| message.name().to_upper_camel_case())
        .collect();
    for service in own().flat_map(|file| &file.service) {
        for method in &service.method {
            let path = format!("/{PACKAGE}.{}/{}", service.name(), method.name());
            let (request, answer) = (name_of(method.input_type()), name_of(method.output_type()));
            writeln!(
                code,
                "\nimpl crate::Rpc for {request} {{\n    const PATH: &'static str = \"{path}\";\n    type Answer = {answer};"
            )?;
            if changes.contains(&request) {
                writeln!(
                    code,
                    "\n    fn request_id(&mut self) -> Option<&mut String> {{\n        Some(&mut self.request_id)\n    }}"
                )?;
            }
            writeln!(code, "}}")?;
        }
    }
    Ok(code)
}

/// Type and variant of the messages of a oneof that have different types.
fn variants(family: &DescriptorProto, oneof: i32) -> Vec<(String, String)> {
    let fields = || {
        family.field.iter().filter(move |field| {
            field.oneof_index == Some(oneof) && !field.proto3_optional() && field.type_name.is_some()
        })
    };
    let mut uses = HashMap::new();
    for field in fields() {
        *uses.entry(field.type_name()).or_insert(0) += 1;
    }
    let once = fields().filter(|field| uses[field.type_name()] == 1);
    once.map(|field| {
        let name = field.type_name().rsplit('.').next().unwrap_or_default();
        (name.to_upper_camel_case(), field.name().to_upper_camel_case())
    })
    .collect()
}
