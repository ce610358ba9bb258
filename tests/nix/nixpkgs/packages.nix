# The packages of nixpkgs that the flake uses, for one system. They build nothing, but each has a
# derivation in which every argument counts.
{
  lib,
  system,
  static ? false,
}:

let
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    filter
    functionArgs
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    map
    mapAttrs
    readFile
    split
    ;
  inherit (lib) isDerivation strict;

  isLinux = builtins.match ".*-linux" system != null;

  # As the environment of a builder: text, and lists of text.
  render =
    value:
    if value == null then
      ""
    else if isBool value then
      (if value then "1" else "")
    else if isInt value || isString value || isPath value || isDerivation value || isSource value then
      "${toString value}"
    else if isList value then
      concatStringsSep " " (map render value)
    else
      throw "an argument of a derivation is neither text nor a list";

  isSource = value: isAttrs value && value ? outPath && value ? file;

  mentions = word: text: length (split word text) > 1;

  # Programs that a phase calls, and the package that brings each.
  brings = {
    wrapProgram = "make-binary-wrapper-hook";
    installShellCompletion = "install-shell-files";
    installManPage = "install-shell-files";
    "cargo clippy" = "clippy";
    "cargo fmt" = "rustfmt";
  };

  # What buildRustPackage adds, and an overrideAttrs may lose.
  hooks = [
    "cargo"
    "cargo-setup-hook"
    "rustc"
  ];

  derive =
    attrs:
    let
      set = filter (name: isAttrs attrs.${name} && !isDerivation attrs.${name} && !isSource attrs.${name}) (attrNames attrs);
      text = mapAttrs (_: render) (removeAttrs attrs (set ++ [ "name" ]));
      tools = map (tool: tool.pname) (attrs.nativeBuildInputs or [ ]);
      phases = concatStringsSep "\n" (map (name: text.${name}) (attrNames text));
      missing = filter (word: mentions word phases && !elem brings.${word} tools) (attrNames brings);
      lost = if attrs ? cargoDeps then filter (hook: !elem hook tools) hooks else [ ];
      stray = filter (name: !elem name [ "meta" "env" "cargoLock" ]) set;
      built = derivation (
        text
        // {
          inherit system;
          name = attrs.name or "${attrs.pname}-${attrs.version}";
          builder = "/bin/sh";
        }
      );
    in
    if missing != [ ] then
      throw "${attrs.pname or attrs.name}: nothing brings ${concatStringsSep ", " missing}"
    else if lost != [ ] then
      throw "${attrs.pname}: overrideAttrs has lost ${concatStringsSep ", " lost}"
    else if stray != [ ] then
      throw "${attrs.pname or attrs.name}: ${concatStringsSep ", " stray} is a set"
    else
      built
      // attrs
      // {
        inherit (built) name;
        overrideAttrs = change: derive (attrs // change attrs);
      };

  package =
    pname:
    derive {
      inherit pname;
      version = "0";
      meta.mainProgram = pname;
    };

  # The platform that code runs on. The two differ for pkgsStatic.
  hostPlatform = {
    inherit system isLinux;
  };
  buildPlatform.canExecute = platform: isString platform.system;

  phases = [
    "buildPhase"
    "checkPhase"
    "installPhase"
    "postBuild"
    "postCheck"
    "postInstall"
    "postPatch"
    "preBuild"
    "preCheck"
    "preInstall"
  ];

  buildRustPackage =
    arguments:
    let
      attrs =
        strict "buildRustPackage"
          [
            "pname"
            "version"
            "src"
            "cargoLock"
            "meta"
          ]
          (
            phases
            ++ [
              "__darwinAllowLocalNetworking"
              "buildInputs"
              "cargoBuildFlags"
              "cargoTestFlags"
              "checkType"
              "doCheck"
              "env"
              "nativeBuildInputs"
              "nativeCheckInputs"
            ]
          )
          arguments;
      lockFile = (strict "cargoLock" [ "lockFile" ] [ "outputHashes" ] attrs.cargoLock).lockFile;
      meta = strict "meta" [ "description" "license" "mainProgram" ] [
        "homepage"
        "changelog"
        "maintainers"
        "platforms"
      ] attrs.meta;
      manifest = builtins.fromTOML (readFile (attrs.src.file "Cargo.toml"));
      # What cargo reads, and what the tests and their snapshots are made of.
      needed = [
        "Cargo.toml"
        "Cargo.lock"
        "src/lib.rs"
        "examples/demo.rs"
        "tests/suite/main.rs"
        "snapshots"
        "scripts"
        "tables-config.json"
        ".env.sample"
        "clippy.toml"
        "rustfmt.toml"
      ]
      ++ map (binary: binary.path) manifest.bin;
      absent = filter (file: attrs.src.file file == null) needed;
      postgresqls = filter (tool: mentions "^postgresql" tool.pname) (attrs.nativeCheckInputs or [ ]);
    in
    if absent != [ ] then
      throw "the source lacks ${concatStringsSep ", " absent}"
    else if attrs.pname != manifest.package.name || attrs.version != manifest.package.version then
      throw "${attrs.pname} ${attrs.version} is not what Cargo.toml says"
    else if !elem attrs.meta.mainProgram (map (binary: binary.name) manifest.bin) then
      throw "Cargo.toml has no binary ${attrs.meta.mainProgram}"
    else if !elem (attrs.checkType or "release") [ "debug" "release" ] then
      throw "checkType is neither debug nor release"
    else if (attrs.doCheck or true) && length postgresqls != 1 then
      throw "the suite needs one PostgreSQL"
    else
      assert import ./cargo.nix {
        inherit manifest;
        lock = builtins.fromTOML (readFile lockFile);
      };
      derive (
        attrs
        // {
          inherit meta;
          nativeBuildInputs = attrs.nativeBuildInputs or [ ] ++ map package hooks;
          cargoDeps = package "cargo-deps";
        }
      );

  runCommand =
    name: attrs: script:
    derive (
      attrs
      // {
        inherit name;
        buildCommand =
          if mentions "\\$out" script then script else throw "runCommand: ${name} makes no $out";
      }
    );

  packages = {
    inherit lib;
    stdenv = {
      inherit hostPlatform buildPlatform;
    };
    rustPlatform = {
      inherit buildRustPackage;
    };
    makeBinaryWrapper = package "make-binary-wrapper-hook";
    installShellFiles = package "install-shell-files";
    formats.json = options: {
      type = assert options == { }; lib.json;
      generate =
        name: value:
        assert lib.json.check value;
        builtins.toFile name (builtins.toJSON value);
    };
  }
  // (
    if static then
      { }
    else
      {
        inherit runCommand;
        cacert = package "cacert";
        cargo = package "cargo";
        cargo-deny = package "cargo-deny";
        clippy = package "clippy";
        postgresql_16 = package "postgresql_16";
        postgresql_17 = package "postgresql_17";
        postgresql_18 = package "postgresql_18";
        rustc = package "rustc";
        rustfmt = package "rustfmt";
        shellcheck = package "shellcheck";
        util-linux = if isLinux then package "util-linux" else throw "util-linux is for Linux";
        mkShell =
          arguments:
          derive (strict "mkShell" [ "packages" ] [ "PG_BIN_DIR" ] arguments // { name = "nix-shell"; });
        dockerTools =
          if !isLinux then
            throw "dockerTools is for Linux"
          else
            {
              buildLayeredImage =
                arguments:
                let
                  attrs = strict "buildLayeredImage" [ "name" "tag" "contents" "config" ] [ ] arguments;
                  config = strict "the image's config" [ "Entrypoint" ] [
                    "Cmd"
                    "Env"
                    "User"
                    "WorkingDir"
                  ] attrs.config;
                in
                derive {
                  name = "${attrs.name}.tar.gz";
                  inherit (attrs) tag contents;
                  configuration = builtins.toJSON config;
                };
            };
        pkgsStatic =
          if isLinux then
            import ./packages.nix {
              inherit lib system;
              static = true;
            }
          else
            throw "pkgsStatic is for Linux here";
      }
  )
  // {
    callPackage =
      path: given:
      let
        f = if isFunction path then path else import path;
        formal = functionArgs f;
        unknown = filter (name: !(formal ? ${name})) (attrNames given);
        missing = filter (name: !formal.${name} && !(given ? ${name}) && !(packages ? ${name})) (
          attrNames formal
        );
        arguments = builtins.intersectAttrs formal packages // given;
      in
      if unknown != [ ] then
        throw "${toString path} takes no ${concatStringsSep ", " unknown}"
      else if missing != [ ] then
        throw "${toString path}: there is no package ${concatStringsSep ", " missing}"
      else
        f arguments // { override = changed: packages.callPackage path (given // changed); };
  };
in
packages
