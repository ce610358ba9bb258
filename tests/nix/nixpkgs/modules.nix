# As much of the module system as the modules of this flake need, with their options checked and
# what they set compared with what NixOS, home-manager and nix-darwin know.
{ lib, legacyPackages }:

let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatLists
    concatStringsSep
    elem
    filter
    foldl'
    functionArgs
    head
    intersectAttrs
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    listToAttrs
    map
    mapAttrs
    tail
    ;

  show = concatStringsSep ".";
  special = value: isAttrs value && value ? _type && elem value._type [ "if" "default" ];
  plain = value: isAttrs value && !lib.isDerivation value && !special value;

  # What a definition says at a path, with the conditions on the way, which are not looked at yet: a
  # condition may need the value of another option of the same definition.
  at =
    path: value:
    if special value then
      map (found: {
        when = (if value._type == "if" then [ value.condition ] else [ ]) ++ found.when;
        weak = value._type == "default" || found.weak;
        inherit (found) value;
      }) (at path value.content)
    else if path == [ ] then
      [
        {
          when = [ ];
          weak = false;
          inherit value;
        }
      ]
    else if isAttrs value && value ? ${head path} then
      at (tail path) value.${head path}
    else
      [ ];

  # The values at a path that count: those whose conditions hold, without defaults where there is
  # better.
  values =
    path: definitions:
    let
      holding = filter (found: all (condition: condition) found.when) (
        concatLists (map (at path) definitions)
      );
      strong = filter (found: !found.weak) holding;
    in
    map (found: found.value) (if strong == [ ] then holding else strong);

  option =
    path: option': definitions:
    let
      found = values [ ] (concatLists (map (definition: values [ ] [ definition ]) definitions));
      whole = merge path option'.type found;
    in
    if found != [ ] then
      whole
    else if option' ? default then
      option'.default
    else
      throw "${show path} is not set";

  merge =
    path: type: found:
    if type ? module then
      submodule path type.module found
    else if type ? inner then
      let
        keys = attrNames (foldl' (all: one: all // one) { } found);
      in
      listToAttrs (
        map (name: {
          inherit name;
          value = merge (path ++ [ name ]) type.inner (values [ name ] found);
        }) keys
      )
    else if builtins.length found != 1 then
      throw "${show path} is set more than once"
    else if type.check (head found) then
      head found
    else
      throw "${show path} is not ${type.name}";

  submodule =
    path: module: found:
    let
      declared =
        (lib.strict "submodule" [ "options" ] [ ] (module { name = builtins.elemAt path (builtins.length path - 1); }))
        .options;
      unknown = filter (name: !(declared ? ${name})) (concatLists (map attrNames found));
    in
    if unknown != [ ] then
      throw "${show path} has no option ${concatStringsSep ", " unknown}"
    else
      mapAttrs (name: option': option (path ++ [ name ]) option' (values [ name ] found)) declared;

  # A module and its imports, each as { options, config }.
  load =
    arguments: module:
    let
      f = if isPath module then import module else module;
      formal = functionArgs f;
      missing = filter (name: !(arguments ? ${name})) (attrNames formal);
      called =
        if !isFunction f then
          f
        else if missing != [ ] then
          throw "modules of this kind are not given ${concatStringsSep ", " missing}"
        else
          f (intersectAttrs formal arguments);
      imports = called.imports or [ ];
      bare = removeAttrs called [ "imports" ];
      own =
        if bare ? config || bare ? options then
          lib.strict "a module" [ ] [ "config" "options" ] bare
        else
          { config = bare; };
    in
    [
      {
        options = own.options or { };
        config = own.config or { };
      }
    ]
    ++ concatLists (map (load arguments) imports);

  # What a system knows: sets of sets, with `*` for any name and a check at each leaf.
  text = isString;
  flag = isBool;
  list = value: isList value && all isString value;
  textOrList = value: isString value || list value;
  packages = value: isList value && all lib.isDerivation value;
  table = value: isAttrs value && all isString (attrValues value);

  fits =
    path: schema: value:
    if isFunction schema then
      if schema value then true else throw "${show path} is of the wrong type"
    else if !plain value then
      throw "${show path} is not a set"
    else
      all (
        name:
        let
          inner = schema.${name} or schema."*" or (throw "there is no option ${show (path ++ [ name ])}");
        in
        fits (path ++ [ name ]) inner value.${name}
      ) (attrNames value);

  # Conditions and defaults taken away, everywhere.
  settled =
    value:
    if special value then
      throw "a condition stands where none can be settled"
    else if plain value then
      listToAttrs (
        concatLists (
          map (
            name:
            map (one: {
              inherit name;
              value = settled one;
            }) (values [ name ] [ value ])
          ) (attrNames value)
        )
      )
    else
      value;

  serviceConfig = {
    CapabilityBoundingSet = text;
    EnvironmentFile = text;
    ExecStart = text;
    Group = text;
    LockPersonality = flag;
    MemoryDenyWriteExecute = flag;
    NoNewPrivileges = flag;
    PrivateDevices = flag;
    PrivateTmp = flag;
    ProtectClock = flag;
    ProtectControlGroups = flag;
    ProtectHome = flag;
    ProtectHostname = flag;
    ProtectKernelLogs = flag;
    ProtectKernelModules = flag;
    ProtectKernelTunables = flag;
    ProtectProc = text;
    ProtectSystem = text;
    ReadWritePaths = list;
    RestrictAddressFamilies = list;
    RestrictNamespaces = flag;
    RestrictRealtime = flag;
    RestrictSUIDSGID = flag;
    SuccessExitStatus = list;
    SystemCallArchitectures = text;
    SystemCallFilter = list;
    Type = text;
    UMask = text;
    User = text;
  };

  job = {
    EnvironmentVariables = table;
    ProgramArguments = list;
    StandardErrorPath = text;
    StandardOutPath = text;
    StartInterval = isInt;
    Umask = isInt;
  };

  kinds = {
    nixos = {
      users.users."*" = {
        description = text;
        group = text;
        isSystemUser = flag;
      };
      users.groups."*" = { };
      environment.systemPackages = packages;
      systemd.services."*" = {
        description = text;
        after = list;
        wants = list;
        environment = table;
        preStart = text;
        inherit serviceConfig;
      };
      systemd.timers."*" = {
        description = text;
        wantedBy = list;
        timerConfig.OnCalendar = text;
        timerConfig.Persistent = flag;
      };
      systemd.tmpfiles.rules = list;
    };
    home = {
      home.packages = packages;
      home.file."*".source = value: isString value || isPath value;
      systemd.user.services."*" = {
        Unit.Description = text;
        Service = {
          Environment = list;
          ExecStart = text;
          SuccessExitStatus = textOrList;
          Type = text;
          UMask = text;
        };
      };
      systemd.user.timers."*" = {
        Unit.Description = text;
        Timer.OnCalendar = text;
        Timer.Persistent = flag;
        Install.WantedBy = list;
      };
      launchd.agents."*" = {
        enable = flag;
        config = job;
      };
    };
    darwin = {
      environment.systemPackages = packages;
      launchd.user.agents."*".serviceConfig = job;
      system.activationScripts.postActivation.text = text;
    };
  };

  samples = kind: {
    services.incremental-replication.pipelines = {
      shop = {
        tables = [
          {
            name = "orders";
            replication_key = "updated_at";
          }
        ];
        environment.SOURCE_HOST = "source.example.com";
        arguments = [ "--fail-fast" ];
      };
      plain = if kind == "nixos" then { environmentFile = "/run/secrets/plain.env"; } else { };
    };
  };

  # What a module sets on a system with two pipelines, or with none.
  evaluate =
    {
      kind,
      system,
      module,
      pipelines ? true,
    }:
    let
      root = [
        "services"
        "incremental-replication"
      ];
      loaded = concatLists (
        map (load arguments) ([ module ] ++ (if pipelines then [ (samples kind) ] else [ ]))
      );
      definitions = map (one: one.config) loaded;
      declared = foldl' (all: one: all // (at' root one.options)) { } loaded;
      at' = path: set: if path == [ ] then set else at' (tail path) (set.${head path} or { });
      own = concatLists (map (at root) definitions);
      undeclared = filter (name: !(declared ? ${name})) (
        concatLists (map (found: if isAttrs found.value then attrNames found.value else [ ]) own)
      );
      # Escaped as systemd wants it: enough for the words of the samples.
      utils.escapeSystemdExecArgs = concatStringsSep " ";
      arguments = {
        inherit lib;
        pkgs = legacyPackages.${system};
        config = {
          services.incremental-replication = mapAttrs (
            name: option': option (root ++ [ name ]) option' (values (root ++ [ name ]) definitions)
          ) declared;
        }
        // (if kind == "home" then { xdg.dataHome = "/home/somebody/.local/share"; } else { });
      }
      // (if kind == "nixos" then { inherit utils; } else { });
      others = map (
        definition:
        let
          held = values [ ] [ definition ];
        in
        if held == [ ] then { } else settled (removeAttrs (head held) [ "services" ])
      ) definitions;
      merged = foldl' (all: one: all // one) { } others;
    in
    if undeclared != [ ] then
      throw "there is no option ${show root}.${head undeclared}"
    else
      assert fits [ ] kinds.${kind} merged;
      builtins.deepSeq merged merged;
in
evaluate
