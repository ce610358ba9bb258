# The functions of nixpkgs' `lib` that the flake uses. An attribute that is not here is an error.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatStringsSep
    elem
    filter
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    listToAttrs
    map
    pathExists
    ;

  isDerivation = value: isAttrs value && value.type or null == "derivation";

  # A function that takes just these arguments, and says which one it does not know.
  strict =
    what: required: allowed: arguments:
    let
      unknown = filter (name: !elem name (required ++ allowed)) (attrNames arguments);
      missing = filter (name: !(arguments ? ${name})) required;
    in
    if unknown != [ ] then
      throw "${what}: unknown argument ${concatStringsSep ", " unknown}"
    else if missing != [ ] then
      throw "${what}: missing argument ${concatStringsSep ", " missing}"
    else
      arguments;

  type = name: check: { inherit name check; };

  lib = {
    inherit
      attrValues
      filter
      isDerivation
      strict
      ;

    genAttrs =
      names: f:
      listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    nameValuePair = name: value: { inherit name value; };
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs =
      f: set:
      listToAttrs (
        map (name: lib.nameValuePair name set.${name}) (filter (name: f name set.${name}) (attrNames set))
      );
    optional = condition: value: if condition then [ value ] else [ ];
    optionalAttrs = condition: value: if condition then value else { };
    optionalString = condition: value: if condition then value else "";
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    concatMapStringsSep =
      separator: f: list:
      concatStringsSep separator (map f list);
    replaceStrings = builtins.replaceStrings;
    escapeShellArg = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] text}'";

    getBin = package: if isDerivation package then package else throw "getBin: not a package";
    makeBinPath = packages: concatStringsSep ":" (map (package: "${lib.getBin package}/bin") packages);
    getExe =
      package:
      if isDerivation package && isString (package.meta.mainProgram or null) then
        "${package}/bin/${package.meta.mainProgram}"
      else
        throw "getExe: ${package.name or "that"} has no meta.mainProgram";

    licenses = {
      mit = "MIT";
      asl20 = "Apache-2.0";
    };
    platforms.unix = [ "unix" ];

    fileset = {
      unions =
        files:
        let
          missing = filter (file: !(isPath file && pathExists file)) files;
        in
        if missing != [ ] then
          throw "fileset: there is no ${toString (builtins.head missing)}"
        else
          { inherit files; };

      toSource =
        arguments:
        let
          inherit (strict "toSource" [ "root" "fileset" ] [ ] arguments) root fileset;
          wanted = map toString fileset.files;
          # Parents of what is wanted, and what lies in it.
          within = folder: path: path == folder || builtins.substring 0 (builtins.stringLength folder + 1) path == "${folder}/";
        in
        {
          outPath = builtins.path {
            name = "source";
            path = root;
            filter = path: _: any (file: within file path || within path file) wanted;
          };
          # For the stand-in itself, which cannot read the store while `nix flake check --no-build`
          # writes nothing to it: a file of the source, or null.
          file =
            name:
            let
              path = root + "/${name}";
            in
            if any (file: within file (toString path)) wanted && pathExists path then path else null;
        };
    };

    # Modules.
    mkOption = strict "mkOption" [ "type" "description" ] [
      "default"
      "example"
    ];
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkDefault = content: {
      _type = "default";
      inherit content;
    };

    types = {
      str = type "a string" isString;
      package = type "a package" isDerivation;
      ints.positive = type "a positive number" (value: isInt value && value > 0);
      nullOr = inner: type "null or ${inner.name}" (value: value == null || inner.check value);
      listOf = inner: type "a list of ${inner.name}" (value: isList value && all inner.check value);
      attrsOf =
        inner:
        type "a set of ${inner.name}" (value: isAttrs value && all inner.check (attrValues value))
        // {
          inherit inner;
        };
      submodule = module: type "a submodule" isAttrs // { inherit module; };
    };

    # For pkgs.formats.json.
    json = type "a JSON value" (
      value:
      value == null
      || isBool value
      || isInt value
      || isString value
      || (isList value && all lib.json.check value)
      || (isAttrs value && !isDerivation value && all lib.json.check (attrValues value))
    );
  };
in
assert isFunction lib.mkOption;
lib
