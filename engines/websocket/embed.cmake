# Writes a C file with the bytes of some files: cmake -DOUT=<c file> "-DFILES=<path;path>" -P embed.cmake
# Each becomes `const unsigned char dashboard_<name>[]` and `const size_t dashboard_<name>_len`, dots as underscores.
set(text "/* Made at build time from engines/websocket/dashboard. */\n#include \"dashboard.h\"\n")
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  string(REPLACE "." "_" name ${name})
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
  string(APPEND text "const unsigned char dashboard_${name}[] = {\n${bytes}\n};\n"
    "const size_t dashboard_${name}_len = sizeof dashboard_${name};\n")
endforeach()
file(WRITE ${OUT} "${text}")
