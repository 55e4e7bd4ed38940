"""Cut long recordings into clips at subtitles or speech. No media are written: a clip is a file and a span of time."""
