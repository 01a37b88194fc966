#!/bin/bash
# Records `hearth pull` and `hearth run` in a real terminal (tmux) and puts the captures into command-line.md.
# Wants tmux and the starter model's package; run it in the project's environment: . .venv/bin/activate && docs/record.sh
set -euo pipefail
cd "$(dirname "$0")"
place=$(mktemp -d)
here=127.0.0.1:18440
neighbour=127.0.0.1:18441

terminal() { tmux -L hearth-record -f /dev/null "$@"; }
keys() { terminal send-keys -t rec "$@"; }
capture() { terminal capture-pane -p -t rec | sed -e 's/[[:space:]]*$//' | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' > "$place/$1.txt"; }
appears() { # text: waits until it is on the screen
    for _ in $(seq 600); do
        if terminal capture-pane -p -t rec | grep -qF -- "$1"; then return 0; fi
        sleep 0.1
    done
    echo "does not appear: $1" >&2
    terminal capture-pane -p -t rec >&2
    return 1
}
daemon() { # name address setting...
    env HEARTH_HOST="$2" HEARTH_MODELS="$place/$1/models" HEARTH_KEY="$place/$1/key" "${@:3}" hearth serve $STARTER \
        >> "$place/$1.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 600); do
        if HEARTH_HOST="$2" hearth ps > /dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    cat "$place/$1.log" >&2
    return 1
}
end() {
    terminal kill-server 2> /dev/null || true
    kill "${pids[@]}" 2> /dev/null || true
    wait
    rm -rf "$place"
}

pids=()
trap end EXIT
mkdir "$place/neighbour" "$place/here"
STARTER=--starter daemon neighbour "$neighbour" HEARTH_SHARE=1
STARTER='' daemon here "$here" HEARTH_TRANSFER_RATE=12MB
for _ in $(seq 600); do
    if HEARTH_HOST="$neighbour" hearth ls | grep -q smollm2; then break; fi
    sleep 0.1
done

terminal new-session -d -s rec -x 100 -y 42 \
    env HEARTH_HOST="$here" XDG_STATE_HOME="$place" PS1='$ ' LC_ALL=C.UTF-8 bash --norc --noprofile
appears '$'
keys "hearth pull http://localhost:18441/library/smollm2:135m" Enter
appears 'MB/s'; sleep 2.5
capture pull-begun
keys C-c
appears 'goes on where this ended'
keys clear Enter; sleep 0.5
keys "hearth pull http://localhost:18441/library/smollm2:135m" Enter
appears 'MB/s'
capture pull-resumed
appears success
keys "hearth ls" Enter
appears MODIFIED; sleep 0.5
capture pull-done
keys clear Enter; sleep 0.5
keys "hearth cp localhost:18441/library/smollm2:135m smollm2:135m" Enter
appears copied
keys "hearth run smollm2:135m --verbose" Enter
appears 'Send a message'
capture run-hint
keys '/set parameter temperature 0' Enter
appears "to '0'"
keys 'What is a hearth?' Enter
appears 'eval rate:'
keys '/set quiet' Enter
appears "Set 'quiet' mode."
keys '"""Name three primary colours.' Enter
appears '...'
keys 'Then stop."""' Enter
sleep 3
keys '/bye' Enter; sleep 0.5
keys 'echo "What is a hearth?" | hearth run smollm2:135m "Answer in one sentence."' Enter; sleep 4
capture run-done

python3 - "$place" command-line.md <<'PYTHON'
import pathlib, re, sys
place, page = map(pathlib.Path, sys.argv[1:])
text = page.read_text()
for name in ("pull-begun", "pull-resumed", "pull-done", "run-hint", "run-done"):
    capture = (place / f"{name}.txt").read_text().rstrip("\n")
    block = f"<!-- capture {name} -->\n```\n{capture}\n```\n<!-- /capture -->"
    text, num = re.subn(rf"<!-- capture {name} -->.*?<!-- /capture -->", lambda _: block, text, flags=re.DOTALL)
    assert num == 1, name
page.write_text(text)
PYTHON
