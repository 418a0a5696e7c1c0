"""One rank that downloads a model: FOLDER HUB, one of `modelscope`, `huggingface`."""

import os
import sys

from answering import answer, tree_digest


def main() -> None:
    folder, hub = sys.argv[1:]
    if hub == "modelscope":
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    path = snapshot_download("org/model", cache_dir=folder)
    links = sum(os.path.islink(os.path.join(path, name)) for name in os.listdir(path))
    again = snapshot_download("org/model", cache_dir=folder, local_files_only=True)
    answer(path=path, digest=tree_digest(path), links=links, again=again)


main()
