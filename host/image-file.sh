#!/usr/bin/env bash
# The image as one compressed file, for machines without access to a registry; called by `make save` and `make load`.
#
# usage: host/image-file.sh save IMAGE FILE   write FILE (.tar.zst, .tar.gz or .tar) and FILE.sha256 beside it
#        host/image-file.sh load FILE         check FILE against FILE.sha256 and the room, then load it into Docker
#
# FILE.sha256 is in `sha256sum -c` format, below a comment line with the image's name, its id and both sizes. They
# distinguish a truncated file from a damaged one and give the disk space needed, before anything is unpacked.
# Exit codes: 0 done, 1 failed, 2 unusable input.
set -Eeuo pipefail

# shellcheck source=host/say.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/say.sh" # say, die

mb() { echo "$((($1 + 500000) / 1000000)) MB"; }
free_in() { df -B1 --output=avail "$1" | tail -n 1; }

# usage: engine_room WHAT IMAGE BYTES [FOLDER] -- Docker's own disk must hold the unpacked image twice during a save or
# load (measured in docs/distribute.md); if FOLDER is on that disk, the file adds to that
engine_room() {
  local root need=$((2 * $3)) free
  root=$(docker info -f '{{.DockerRootDir}}' 2>/dev/null || true)
  [[ -d $root ]] || return 0 # the engine is another machine's, or its folder is not for this user's eyes
  if [[ -n ${4:-} && $(stat -c %d -- "$4") == $(stat -c %d -- "$root") ]]; then need=$((3 * $3)); fi
  free=$(free_in "$root")
  ((free >= need)) ||
    die 2 "no room to $1 $2: Docker needs $(mb "$need") for a while and $root has $(mb "$free") free; make room there ('docker system df' shows what takes it)" "空间不足，无法执行 $1 $2：Docker 临时需要 $(mb "$need")，而 $root 只剩 $(mb "$free")；请腾出空间（'docker system df' 显示占用）"
}

# usage: packer FILE -- prints the command that compresses to a file of that name
packer() {
  local -a known=()
  case $1 in
    *.tar.zst) known=('zstd -q -3 -T0') ;;
    *.tar.gz) known=('pigz -4' 'gzip -4') ;;
    *.tar) known=(cat) ;;
    *) die 2 "FILE=$1: the ending says how it is compressed; give one that ends in .tar.zst, .tar.gz or .tar" "FILE=$1：压缩方式由扩展名决定；请以 .tar.zst、.tar.gz 或 .tar 结尾" ;;
  esac
  for command in "${known[@]}"; do
    if command -v "${command%% *}" >/dev/null; then
      echo "$command"
      return
    fi
  done
  die 2 "FILE=$1 needs zstd, which is not here; install it (apt-get install zstd), or give FILE=${1%.zst}.gz" "FILE=$1 需要 zstd，但没有安装；请安装（apt-get install zstd），或改用 FILE=${1%.zst}.gz"
}

save() {
  local image=$1 file=$2 id size folder free pack
  pack=$(packer "$file")
  size=$(docker image inspect -f '{{.Size}}' "$image" 2>/dev/null) ||
    die 2 "there is no image $image here; 'make build' makes it, 'docker images' lists what there is" "本机没有镜像 $image；'make build' 构建它，'docker images' 列出已有的镜像"
  id=$(docker image inspect -f '{{.Id}}' "$image")
  folder=$(dirname -- "$file")
  [[ -d $folder && -w $folder ]] || die 2 "FILE=$file: $folder is not a folder that this user can write; give another FILE" "FILE=$file：当前用户不能写入目录 $folder；请换一个 FILE"
  free=$(free_in "$folder")
  # the compressed size is not known in advance: require space for the full size
  ((free >= size)) ||
    die 2 "no room for $file: $image is $(mb "$size") unpacked and $folder has $(mb "$free") free; give a FILE elsewhere" "空间不足，无法写入 $file：$image 解压后有 $(mb "$size")，而 $folder 只剩 $(mb "$free")；请把 FILE 放到别处"
  engine_room save "$image" "$size" "$folder"
  say "writing $image ($(mb "$size") unpacked) to $file" "正在把 $image（解压后 $(mb "$size")）写入 $file"
  # shellcheck disable=SC2064,SC2086  # now, not at exit; a command and its flags
  trap "rm -f -- $(printf %q "$file.part")" EXIT
  rm -f -- "$file.sha256"
  docker save "$image" | $pack >"$file.part" ||
    die 1 "$file was not written (the cause is above; $(mb "$(free_in "$folder")") are free); nothing is left of it" "$file 没有写成（原因见上；剩余 $(mb "$(free_in "$folder")")）；没有留下残余文件"
  mv -f -- "$file.part" "$file"
  {
    echo "# $image $id file=$(stat -c %s -- "$file") unpacked=$size"
    (cd -- "$folder" && sha256sum -- "$(basename -- "$file")")
  } >"$file.sha256"
  say "$(mb "$(stat -c %s -- "$file")"); copy $file and $file.sha256, then on the other machine: make load FILE=$(basename -- "$file")" "$(mb "$(stat -c %s -- "$file")")；请复制 $file 和 $file.sha256，然后在另一台机器上运行：make load FILE=$(basename -- "$file")"
}

load() {
  local file=$1 comment name id bytes unpacked there
  [[ -r $file ]] || die 2 "FILE=$file: no such file; give the one that 'make save' wrote" "FILE=$file：没有这个文件；请给出 'make save' 写出的文件"
  [[ -r $file.sha256 ]] ||
    die 2 "$file.sha256 is not there, so the file cannot be proved; copy it too ('make save' writes it beside the file)" "缺少 $file.sha256，无法校验；请把它一并复制过来（'make save' 把它写在文件旁边）"
  comment=$(head -n 1 -- "$file.sha256")
  [[ $comment =~ ^'# '([^ ]+)\ ([^ ]+)\ file=([0-9]+)\ unpacked=([0-9]+)$ ]] ||
    die 2 "$file.sha256 is not one that 'make save' wrote (its first line names the image and its sizes); copy it again" "$file.sha256 不是 'make save' 写出的（首行应有镜像名和大小）；请重新复制"
  name=${BASH_REMATCH[1]} id=${BASH_REMATCH[2]} bytes=${BASH_REMATCH[3]} unpacked=${BASH_REMATCH[4]}
  there=$(stat -L -c %s -- "$file")
  ((there == bytes)) ||
    die 2 "$file has $there bytes, not the $bytes of $file.sha256: the copy was cut or is another's; copy it again" "$file 有 $there 字节，而 $file.sha256 记录的是 $bytes：复制不完整，或不是同一个文件；请重新复制"
  if [[ $(docker image inspect -f '{{.Id}}' "$name" 2>/dev/null) == "$id" ]]; then
    say "$name is here already, with the same id ${id:0:19}" "$name 已在本机，id 相同：${id:0:19}"
    return
  fi
  engine_room load "$name" "$unpacked"
  # the name recorded with the checksum may be an older one: only the content counts
  [[ $(sha256sum <"$file") == "$(sed -n '2s/ .*//p' "$file.sha256")  -" ]] ||
    die 2 "$file is damaged: its sha256 is not the one of $file.sha256; copy it again, nothing was loaded" "$file 已损坏：sha256 与 $file.sha256 不符；请重新复制，没有载入任何内容"
  docker load -q -i "$file" >&2 || die 1 "docker load failed (the cause is above), although the file is whole" "docker load 失败（原因见上），但文件是完整的"
  say "$name is here, id $(docker image inspect -f '{{.Id}}' "$name")" "$name 已载入，id $(docker image inspect -f '{{.Id}}' "$name")"
}

case ${1:-}/$# in
  save/3) save "$2" "$3" ;;
  load/2) load "$2" ;;
  *)
    sed -n '4,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
