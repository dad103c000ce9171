#!/bin/sh
# CRIU runs this at each of its hooks. It names the hook in a file beside the images, which the daemon watches, and waits for
# the daemon's word in a FIFO there: `go <hook>`, or `stop`. A non-zero exit at post-dump or post-restore is a veto (CRIU resumes
# the process, or gives the restore up); at pre-resume CRIU ignores it: there the copy is certain to run, and only waits
# until it may be heard.
#
# When the daemon dies nobody may decide in its place: opening the FIFO again waits until a restarted daemon, which knows
# from its journal what was promised, writes its word. Without the FIFO there is nobody left to ask.
case "$CRTOOLS_SCRIPT_ACTION" in
pre-dump | post-dump | post-restore | pre-resume) ;;
*) exit 0 ;;
esac
fifo=$CRTOOLS_IMAGE_DIR/verdict
echo "$CRTOOLS_SCRIPT_ACTION" >>"$CRTOOLS_IMAGE_DIR/hooks.log"
while [ -p "$fifo" ]; do
	read -r word hook <"$fifo" || continue
	[ "$word" = stop ] && exit 1
	[ "$hook" = "$CRTOOLS_SCRIPT_ACTION" ] && exit 0
done
exit 1
